"""The `celeriac` command: Celery's words and flags. A file for each group of commands; `root` holds what they share."""

from celeriac.cli import beat, calls, outbox, queues, remote, report, worker
from celeriac.cli.root import find_app, main

__all__ = ["beat", "calls", "find_app", "main", "outbox", "queues", "remote", "report", "worker"]
