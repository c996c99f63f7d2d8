"""Fixtures for pytest, under Celery's names and under ours: `pytest_plugins = ("celeriac.contrib.pytest",)`.

`celery_app` is an app with broker and results in this process, the current one during the test; `celery_worker` a real worker beside it.
The others say how both are made, and are there to be overridden. App and worker are there
as `celeriac_…`, too, which gives the same.
"""

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from celeriac import compat
from celeriac.app.base import Celeriac
from celeriac.broker.purge import purge
from celeriac.contrib.testing.worker import TestWorker, start_worker

#: What an app of the fixtures has where nobody says otherwise.
SETTINGS: Mapping[str, Any] = {"broker_url": "memory://", "result_backend": "cache+memory://"}
#: The session's own broker and results, in place of these: its worker lives on beside those of single tests.
_OF_SESSION = {
    "memory://": "memory:///celeriac-session",
    "cache+memory://": "cache+memory:///celeriac-session",
}


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "celery(**settings): settings of the app that celery_app gives this test")


@contextmanager
def _app(
    config: Mapping[str, Any], parameters: Mapping[str, Any], includes: Sequence[str], *, trap: bool, logs: bool, of_session: bool
) -> Iterator[Celeriac]:  # fmt: skip
    given = {"set_as_current": False, **parameters}
    app = Celeriac(given.pop("main", "celeriac.tests"), **given)
    for name, value in SETTINGS.items():
        app.conf.setdefault(name, value)
    app.conf.update(config)
    if of_session:
        app.conf.update({name: _OF_SESSION.get(app.conf[name], app.conf[name]) for name in SETTINGS})
    if includes:
        app.conf.include = [*app.conf.include, *includes]
    level = logging.getLogger("celeriac").level
    if logs:
        logging.getLogger("celeriac").setLevel(logging.DEBUG)
    try:
        with compat.used(app, trap=trap):
            yield app
            purge(app.broker_address(), [app.conf.task_default_queue])  # the next test is to find nothing there
    finally:
        logging.getLogger("celeriac").setLevel(level)
        app.close()


@contextmanager
def _worker(
    app: Celeriac, tasks: Sequence[Any], includes: Sequence[str], pool: str, parameters: Mapping[str, Any]
) -> Iterator[TestWorker]:
    for module in includes:
        importlib.import_module(module)
    for task in tasks:
        app.register_task(task)
    with start_worker(app, **{"pool": pool, **parameters}) as worker:
        yield worker


# -- how the app and the worker are made: to be overridden


@pytest.fixture(scope="session")
def celery_config() -> Mapping[str, Any]:
    """Settings of the app."""
    return {}


@pytest.fixture(scope="session")
def celery_parameters() -> Mapping[str, Any]:
    """Arguments of Celeriac(…)."""
    return {}


@pytest.fixture(scope="session")
def celery_includes() -> Sequence[str]:
    """Modules whose tasks the app has."""
    return ()


@pytest.fixture(scope="session")
def celery_class_tasks() -> Sequence[Any]:
    """Task classes that are registered with the app before the worker starts."""
    return []


@pytest.fixture(scope="session")
def celery_enable_logging() -> bool:
    """Whether everything is logged."""
    return False


@pytest.fixture(scope="session")
def celery_worker_pool() -> str:
    """solo, threads or asyncio."""
    return "solo"


@pytest.fixture(scope="session")
def celery_worker_parameters() -> Mapping[str, Any]:
    """Arguments of start_worker(…)."""
    return {}


@pytest.fixture(scope="session")
def use_celery_app_trap() -> bool:
    """Whether using the current app raises: what does then depends on an app that nobody chose. See depends_on_current_app."""
    return False


# -- the app and the worker


@pytest.fixture(scope="session")
def celery_session_app(
    celery_config: Mapping[str, Any], celery_parameters: Mapping[str, Any], celery_includes: Sequence[str],
    celery_enable_logging: bool, use_celery_app_trap: bool,
) -> Iterator[Celeriac]:  # fmt: skip
    """One app for all tests."""
    with _app(
        celery_config, celery_parameters, celery_includes, trap=use_celery_app_trap, logs=celery_enable_logging, of_session=True
    ) as app:  # fmt: skip
        yield app


@pytest.fixture(scope="session")
def celery_session_worker(
    celery_session_app: Celeriac, celery_class_tasks: Sequence[Any], celery_includes: Sequence[str], celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[TestWorker]:  # fmt: skip
    """A worker that lives as long as the tests."""
    with _worker(
        celery_session_app, celery_class_tasks, celery_includes, celery_worker_pool, celery_worker_parameters
    ) as worker:
        yield worker


@pytest.fixture
def celery_app(
    request: pytest.FixtureRequest, celery_config: Mapping[str, Any], celery_parameters: Mapping[str, Any],
    celery_includes: Sequence[str], celery_enable_logging: bool, use_celery_app_trap: bool,
) -> Iterator[Celeriac]:  # fmt: skip
    """An app for this test; `@pytest.mark.celery(task_always_eager=True)` sets its settings.

    With celery_session_worker and no worker of its own it shares that one's broker and results, where these are in this process.
    """
    config = dict(celery_config)
    for marker in reversed(list(request.node.iter_markers("celery"))):
        config.update(marker.kwargs)
    of_session = "celery_session_worker" in request.fixturenames and "celery_worker" not in request.fixturenames
    with _app(
        config, celery_parameters, celery_includes, trap=use_celery_app_trap, logs=celery_enable_logging, of_session=of_session
    ) as app:  # fmt: skip
        yield app


@pytest.fixture
def celery_worker(
    celery_app: Celeriac, celery_class_tasks: Sequence[Any], celery_includes: Sequence[str], celery_worker_pool: str,
    celery_worker_parameters: Mapping[str, Any],
) -> Iterator[TestWorker]:  # fmt: skip
    """A worker on that app. Tasks that the test defines itself it knows after `celery_worker.reload()`."""
    with _worker(
        celery_app, celery_class_tasks, celery_includes, celery_worker_pool, celery_worker_parameters
    ) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(celery_app: Celeriac) -> Iterator[None]:
    """The current app may be used, trap or no trap."""
    with compat.used(celery_app):
        yield


# -- the same under our name: they follow what is overridden above


@pytest.fixture(scope="session")
def celeriac_session_app(celery_session_app: Celeriac) -> Celeriac:
    """celery_session_app."""
    return celery_session_app


@pytest.fixture(scope="session")
def celeriac_session_worker(celery_session_worker: TestWorker) -> TestWorker:
    """celery_session_worker."""
    return celery_session_worker


@pytest.fixture
def celeriac_app(celery_app: Celeriac) -> Celeriac:
    """celery_app."""
    return celery_app


@pytest.fixture
def celeriac_worker(celery_worker: TestWorker) -> TestWorker:
    """celery_worker."""
    return celery_worker
