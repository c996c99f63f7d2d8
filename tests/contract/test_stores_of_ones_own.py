"""A task with a store of its own, from the call to its result; and stores that users write."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import RedisServer
from sites import Site

from celeriac import Celeriac, Task
from celeriac.backends import open_backend
from celeriac.backends.memory import MemoryBackend
from celeriac.backends.redis import RedisBackend
from celeriac.backends.sql import SqlBackend
from celeriac.exceptions import ImproperlyConfigured
from celeriac.wire.result import ResultMeta

JOBS = """
import os
from celeriac import Celeriac

app = Celeriac("own", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.task_track_started = True

@app.task(name="own.add", backend=os.environ["OWN"])
def add(x, y):
    return x + y

@app.task(name="own.fail", backend=os.environ["OWN"])
def fail():
    raise ValueError("lamp")

@app.task(name="own.tell", bind=True, backend=os.environ["OWN"])
def tell(self, path):
    import time
    self.update_state(state="PROGRESS", meta={"done": 40})
    while not os.path.exists(path):
        time.sleep(0.01)

@app.task(name="own.usual")
def usual(x):
    return x
"""


class Kept(MemoryBackend):
    """A store of the user's own."""

    def __init__(self, url: str | None, **settings: Any) -> None:
        super().__init__()
        self.url, self.settings = url, settings


@pytest.fixture
def my_stores() -> Iterator[None]:
    module = types.ModuleType("my_stores")
    module.Kept = Kept  # type: ignore[attr-defined]
    module.Other = dict  # type: ignore[attr-defined]
    sys.modules["my_stores"] = module
    yield
    del sys.modules["my_stores"]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("app_store", ["redis", "disabled://"])
def test_a_task_keeps_its_results_where_it_says(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str, app_store: str
) -> None:
    own = f"db+sqlite:///{tmp_path / 'own.db'}"
    usual_store = redis_server.url.replace("/0", "/1") if app_store == "redis" else app_store
    (tmp_path / "own.py").write_text(JOBS)
    site = Site(broker=redis_server.url, backend=usual_store, server=redis_server, folder=tmp_path)
    with site.closing:
        worker = start(site, tmp_path, own, usual_store, pool)
        assert worker.returncode is None
        app = Celeriac("client", broker=redis_server.url, backend=usual_store, set_as_current=False)
        site.closing.callback(app.close)
        add = app.task(name="own.add", backend=own)(lambda x, y: x + y)
        fail = app.task(name="own.fail", backend=own)(lambda: None)
        tell = app.task(name="own.tell", backend=own)(lambda path: None)
        usual = app.task(name="own.usual")(lambda x: x)

        assert add.delay(1, 2).get(timeout=15) == 3
        with pytest.raises(ValueError, match="lamp"):
            fail.delay().get(timeout=15)
        telling = tell.delay(str(tmp_path / "go"))
        while (state := telling.state) != "PROGRESS":
            assert state in {"PENDING", "STARTED"}
        (tmp_path / "go").touch()
        assert telling.get(timeout=15) is None
        assert tell.AsyncResult(telling.id).state == "SUCCESS"
        if app_store == "redis":
            assert usual.delay(7).get(timeout=15) == 7
            assert app.AsyncResult(telling.id).state == "PENDING", "it is in the task's own store alone"


def start(site: Site, folder: Path, own: str, usual: str, pool: str) -> Any:
    from libraries import Place, start_worker

    place = Place(name="", broker=site.broker, backend=usual)
    env = {"OWN": own}
    worker = start_worker(
        "celeriac", place, folder / "worker.log", "-P", pool, "-c", "2", app="own", modules=folder, env=env
    )
    site.closing.callback(worker.kill)
    return worker


def test_the_store_of_a_task_is_its_own_or_the_apps(tmp_path: Path) -> None:
    app = Celeriac("x", broker="memory://", backend="cache+memory://", set_as_current=False)
    own = MemoryBackend()

    class Base(Task):
        abstract = True
        backend = f"db+sqlite:///{tmp_path / 'own.db'}"

    usual = app.task(name="usual")(lambda: None)
    based = app.task(name="based", base=Base)(lambda: None)
    given = app.task(name="given", backend=own)(lambda: None)
    other = app.task(name="other", base=Base)(lambda: None)

    assert usual.backend is app.backend
    assert isinstance(based.backend, SqlBackend)
    assert other.backend is based.backend
    assert given.backend is own
    app.close()


def test_the_cleanup_task_cleans_every_store(tmp_path: Path) -> None:
    urls = [f"db+sqlite:///{tmp_path / name}.db" for name in ("usual", "own")]
    app = Celeriac("x", broker="memory://", backend=urls[0], set_as_current=False)
    app.task(name="own", backend=urls[1])(lambda: None)
    old = ResultMeta("a", "SUCCESS", 1, date_done="2020-01-01T00:00:00+00:00")
    assert len(app.every_store()) == 2
    for store in app.every_store():
        store.store([(old, None)])

    app.tasks["celery.backend_cleanup"]()

    assert [store.fetch("a") for store in app.every_store()] == [None, None]
    app.close()


def test_what_is_no_store_is_refused_where_the_task_is_defined_or_called() -> None:
    app = Celeriac("x", broker="memory://", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match=r"task bad: backend: int is no result store, it lacks .*fetch"):
        app.task(name="bad", backend=5)(lambda: None)
    with pytest.raises(ImproperlyConfigured, match="no store for the scheme 'nonsense'"):
        app.task(name="worse", backend="nonsense://")(lambda: None).delay()


@pytest.mark.parametrize(
    ("backend", "url"),
    [
        pytest.param("my_stores:Kept", None, id="a path"),
        pytest.param("my_stores.Kept", None, id="with a dot"),
        pytest.param("my_stores:Kept+shelf://h/1", "shelf://h/1", id="with a URL"),
    ],
)
def test_a_class_of_ones_own_is_a_store(my_stores: None, backend: str, url: str | None) -> None:
    app = Celeriac("x", broker="memory://", backend=backend, set_as_current=False, result_expires=60)
    store = app.backend
    assert isinstance(store, Kept)
    assert store.url == url
    assert store.settings["expires_s"] == 60
    assert store.settings["serializer"] == "json"
    app.close()


def test_a_scheme_that_a_package_registers_is_a_store(
    my_stores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "shelf-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[celeriac.result_backends]\nshelf = my_stores:Kept\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    store = open_backend("shelf://h/1")
    assert isinstance(store, Kept)
    assert store.url == "shelf://h/1"


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        pytest.param("my_stores:Missing", "cannot be imported", id="no such class"),
        pytest.param("no_such_module:Store", "cannot be imported", id="no such module"),
        pytest.param("cache+memcached://h:11211/", "memcached is planned.*Until then use redis://", id="memcached"),
        pytest.param("cache", "memcached is planned", id="the guide's cache"),
        pytest.param("mongodb://h/db", "MongoDB is planned", id="mongodb"),
        pytest.param("mongodb", "MongoDB is planned", id="the guide's mongodb"),
        pytest.param("tyrant://h:1978", "Tokyo Tyrant is planned, by the memcached protocol", id="tyrant"),
        pytest.param("django-db", "Django's ORM is planned", id="django"),
        pytest.param("elasticsearch://h", "no store for the scheme 'elasticsearch'", id="another of Celery's"),
        pytest.param("database", "database_url .CELERY_RESULT_DBURI. names no database", id="database without one"),
    ],
)  # fmt: skip
def test_a_store_that_is_not_there_says_what_is(my_stores: None, backend: str, says: str) -> None:
    app = Celeriac("x", broker="memory://", backend=backend, set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match=says):
        _ = app.backend


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        pytest.param({"CELERY_RESULT_BACKEND": "database", "CELERY_RESULT_DBURI": "sqlite:///x.db"}, SqlBackend, id="database"),
        pytest.param({"CELERY_RESULT_BACKEND": "database", "database_url": "db+sqlite:///x.db"}, SqlBackend, id="database, today"),
        pytest.param({"CELERY_RESULT_BACKEND": "redis"}, RedisBackend, id="redis"),
        pytest.param({"result_backend": "sqla+sqlite:///x.db"}, SqlBackend, id="sqla+"),
    ],
)  # fmt: skip
def test_the_guides_names_are_known(settings: dict[str, str], kind: type) -> None:
    app = Celeriac("x", broker="memory://", config_source=settings, set_as_current=False)
    assert isinstance(app.backend, kind)
