"""result_extended and result_compression from the worker to whoever reads."""

import json
from pathlib import Path

import pytest
from servers import RedisServer
from sites import Site

from celeriac import Celeriac
from celeriac.backends import open_backend
from celeriac.exceptions import DecodeError, ImproperlyConfigured
from celeriac.wire.result import KEY_PREFIX, ResultMeta

MARK = b"\x00celery-compressed\x00"


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_extended_records_say_what_was_called_and_who_ran_it(
    redis_server: RedisServer, tmp_path: Path, kind: str, pool: str
) -> None:
    backend = redis_server.url.replace("/0", "/1") if kind == "redis" else f"db+sqlite:///{tmp_path / 'results.db'}"
    site = Site(broker=redis_server.url, backend=backend, server=redis_server, folder=tmp_path)
    with site.closing:
        site.worker("-P", pool, result_extended="1")
        app = site.client()
        done = app.send_task("jobs.add", (1,), {"y": 2})
        failed = app.send_task("jobs.add", (1, [None, "\u00fc"]))
        assert done.get(timeout=15) == 3
        with pytest.raises(TypeError):
            failed.get(timeout=15)
        for result, args, kwargs in ((done, [1], {"y": 2}), (failed, [1, [None, "\u00fc"]], {})):
            assert (result.args, result.kwargs) == (args, kwargs)
            found = app.backend.fetch(result.id)
            assert found is not None
            assert (found.extra["name"], found.extra["retries"], found.extra["queue"]) == ("jobs.add", 0, "celery")
            assert found.extra["worker"] == "w1@test"


@pytest.mark.parametrize("compression", ["gzip", "bzip2"])
def test_compressed_records_are_in_celerys_form_and_any_is_read(redis_server: RedisServer, compression: str) -> None:
    packing = open_backend(redis_server.url, compression=compression)
    plain = open_backend(redis_server.url)
    value = {"t\u00fcr": "x" * 10_000}
    packing.store([(ResultMeta("a", "SUCCESS", value), None)])
    plain.store([(ResultMeta("b", "SUCCESS", value), None)])

    for reader in (packing, plain):
        assert {task_id: meta.result for task_id, meta in reader.fetch_many(["a", "b"]).items()} == {"a": value, "b": value}  # fmt: skip
    with redis_server.client() as client:
        assert client.strlen(KEY_PREFIX + "a") < 1000 < client.strlen(KEY_PREFIX + "b")
    packing.store([(ResultMeta("a", "FAILURE", {}), None)])
    assert plain.fetch("a").status == "SUCCESS", "a SUCCESS is never overwritten"  # type: ignore[union-attr]
    packing.close()
    plain.close()


def test_a_compressed_record_in_a_database_is_read_by_who_compresses_nothing(tmp_path: Path) -> None:
    url = f"db+sqlite:///{tmp_path / 'results.db'}"
    packing, plain = open_backend(url, compression="zlib"), open_backend(url)
    packing.store([(ResultMeta("a", "SUCCESS", "x" * 1000), None)])
    assert plain.fetch("a").result == "x" * 1000  # type: ignore[union-attr]
    packing.close()
    plain.close()


def test_a_compression_nobody_has_is_refused_with_those_there_are() -> None:
    app = Celeriac("x", broker="memory://", backend="redis://h", result_compression="zap", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match=r"result_compression 'zap' is not known; use one of: .*gzip"):
        _ = app.backend


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(MARK + b"application/x-gzip\x00nonsense", id="not compressed at all"),
        pytest.param(MARK + b"application/x-unheard\x00nonsense", id="an unknown compression"),
        pytest.param(MARK, id="nothing after the mark"),
        pytest.param(b"\x80\x04N.", id="a pickle, which is not accepted"),
        pytest.param(json.dumps([1]).encode(), id="no record"),
    ],
)
def test_what_cannot_be_read_is_a_clear_error(redis_server: RedisServer, payload: bytes) -> None:
    backend = open_backend(redis_server.url)
    with redis_server.client() as client:
        client.set(KEY_PREFIX + "a", payload)
    with pytest.raises(DecodeError):
        backend.fetch("a")
    backend.close()
