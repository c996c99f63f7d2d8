"""Celeriac: a task queue that speaks Celery's protocol, made for Kubernetes.

from celeriac import Celeriac

app = Celeriac("shop", broker="redis://localhost", backend="redis://localhost")

@app.task
def add(x, y):
    return x + y

add.delay(2, 3).get()
"""

import os as _os
from typing import Any as _Any

from celeriac.app import Celeriac, Task
from celeriac.app import base as _base
from celeriac.canvas import Signature, chain, chord, chunks, group, maybe_signature, signature, subtask, xmap, xstarmap
from celeriac.compat import Celery, current_app, current_task, shared_task
from celeriac.ids import new_id as uuid
from celeriac.result import AsyncResult, GroupResult, ResultSet


def _in_a_django_project(app: Celeriac) -> None:
    """As with Celery, an app finds out by itself that it stands in one."""
    if _os.environ.get("DJANGO_SETTINGS_MODULE"):
        from celeriac.contrib.django.fixup import install

        install(app)


_base.created.append(_in_a_django_project)

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
    "uuid",
    "xmap",
    "xstarmap",
]


def _run_here(*call: _Any, **options: _Any) -> _Any:
    from celeriac.worker.eager import run_here  # only for who calls a task where it is: a client is light

    return run_here(*call, **options)


_base.runners.append(_run_here)


def _command(app: Celeriac, arguments: list[str]) -> int:
    from celeriac.cli import main

    code = main.main(arguments, prog_name="celeriac", standalone_mode=False, obj=app)
    return code if isinstance(code, int) else 0


_base.commands.append(_command)
