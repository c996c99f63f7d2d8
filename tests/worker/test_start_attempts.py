"""A worker whose broker is away at its start: for ever, so often as the settings say, or once."""

from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.exceptions import BrokerUnavailable
from celeriac.worker.assemble import Options, run_worker


@pytest.mark.parametrize(
    ("settings", "tries"),
    [
        ({"broker_connection_retry_on_startup": False}, 0),
        ({"broker_connection_max_retries": 2}, 1),
        ({"broker_connection_retry_on_startup": True, "broker_connection_max_retries": 2}, 1),
    ],
)
@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_it_ends_after_so_many_attempts(
    settings: dict[str, Any], tries: int, pool: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Celeriac("shop", broker="redis://127.0.0.1:1/0", set_as_current=False, worker_http_port=0, **settings)
    app.task(lambda: 1, name="t")

    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        run_worker(app, Options(pool=pool, concurrency=1))

    assert caplog.text.count("trying again") == tries
