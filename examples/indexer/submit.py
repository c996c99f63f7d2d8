"""The producer, a process of its own: submits everything in one burst, collects every result, writes a ledger.

`python -m examples.indexer.submit --ledger ledger.json`, with CELERIAC_BROKER_URL and CELERIAC_RESULT_BACKEND set. A
ledger is a JSON list, one entry a task: task, argument, sent_at, state (LOST when nothing was heard of it), result.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from examples.indexer import library
from examples.indexer.tasks import index_file, publish_summary

from celeriac.result import AsyncResult

#: A task of which nothing is heard this long after the burst counts as lost.
PATIENCE_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Submit the indexer's tasks in one burst and collect their results.")
    parser.add_argument("--ledger", type=Path, required=True, help="where to write what became of each task")
    parser.add_argument("--files", type=int, default=None, help="only so many files (default: all)")
    options = parser.parse_args()

    paths = library.source_files()[: options.files]
    started_at = time.time()
    sent = submit(paths)
    took_s = time.time() - started_at
    print(f"submitted {len(sent)} tasks in {took_s:.1f} s ({len(sent) / took_s:.0f} a second)", flush=True)

    ledger = collect(sent, until_at=time.time() + PATIENCE_S)
    unfinished = options.ledger.with_suffix(".part")
    unfinished.write_text(json.dumps(ledger))
    unfinished.rename(options.ledger)  # whoever waits for it never sees half of it
    print(f"every result is in, {time.time() - started_at:.1f} s after the first task was sent", flush=True)


def submit(paths: list[str]) -> list[tuple[dict[str, Any], AsyncResult]]:
    """Send a task for each file and each folder; gives the beginning of each task's entry, and its result to be."""
    sent = []
    for folder, members in library.folders(paths).items():
        for path in members:
            entry = {"task": "index_file", "argument": path, "sent_at": time.time()}
            sent.append((entry, index_file.apply_async((path,), queue="files")))
        entry = {"task": "publish_summary", "argument": folder, "sent_at": time.time()}
        sent.append((entry, publish_summary.apply_async((folder, members), queue="summaries")))
    return sent


def collect(sent: list[tuple[dict[str, Any], AsyncResult]], *, until_at: float) -> list[dict[str, Any]]:
    """The ledger: each entry with the state and the result (or the error's type and arguments) from the back end."""
    ledger = []
    for entry, result in sent:
        try:
            value = result.get(timeout=max(0.1, until_at - time.time()), propagate=False)
        except TimeoutError:
            ledger.append({**entry, "state": "LOST", "result": None})
            continue
        if isinstance(value, BaseException):
            value = {"type": type(value).__name__, "args": [repr(argument) for argument in value.args]}
        ledger.append({**entry, "state": result.state, "result": value})
    return ledger


if __name__ == "__main__":
    main()
