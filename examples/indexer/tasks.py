"""The indexer's tasks: one file each, retried when the storage is busy; and one summary a folder, ten a second at most.

Worker: `celeriac -A examples.indexer.tasks worker -Q files,summaries`. Broker and result back end come from the
environment: CELERIAC_BROKER_URL, CELERIAC_RESULT_BACKEND.
"""

import time
from dataclasses import asdict
from typing import Any

from examples.indexer import library

from celeriac import Celeriac

app = Celeriac("indexer")


@app.task(bind=True, max_retries=5, default_retry_delay=0.2)
def index_file(self: Any, path: str) -> dict[str, Any]:
    """Count one file's functions, classes and lines."""
    started_at = time.time()
    retries = self.request.retries
    try:
        source = library.read(path, attempt=retries)
    except library.StorageBusy as busy:
        raise self.retry(exc=busy, countdown=0.2 * 2**retries) from busy
    try:
        counts = library.count(source, path)
    except (SyntaxError, ValueError) as error:
        raise library.NotPython(path, str(error), retries) from error
    return {**asdict(counts), "path": path, "started_at": started_at, "retries": retries}


@app.task(rate_limit="10/s")
def publish_summary(folder: str, paths: list[str]) -> dict[str, Any]:
    """Publish how much one folder holds, on a site that takes ten posts a second."""
    return {"folder": folder, "files": len(paths), "size_bytes": library.size(paths), "started_at": time.time()}
