"""The `celeriac` command: Celery's words and flags. A file for each group of commands; `root` holds what they share."""

from celeriac.cli import beat, calls, check, outbox, queues, remote, report, worker
from celeriac.cli.root import find_app, main

__all__ = ["beat", "calls", "check", "find_app", "main", "outbox", "queues", "remote", "report", "worker"]
