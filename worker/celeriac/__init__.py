"""Celeriac: a task queue that speaks Celery's protocol, made for Kubernetes.

from celeriac import Celeriac

app = Celeriac("shop", broker="redis://localhost", backend="redis://localhost")

@app.task
def add(x, y):
    return x + y

add.delay(2, 3).get()
"""

from celeriac.app import Celeriac, Task
from celeriac.canvas import Signature, chain, chord, chunks, group, maybe_signature, signature, subtask, xmap, xstarmap
from celeriac.compat import Celery, current_app, current_task, shared_task
from celeriac.result import AsyncResult, GroupResult, ResultSet

__version__ = "0.1.0"

__all__ = [
    "AsyncResult",
    "Celeriac",
    "Celery",
    "GroupResult",
    "ResultSet",
    "Signature",
    "Task",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "current_task",
    "group",
    "maybe_signature",
    "shared_task",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]
