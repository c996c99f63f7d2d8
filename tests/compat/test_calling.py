"""What a call asks for, with a stock Celery worker on the other side."""

from pathlib import Path

import pytest
from libraries import Place, start_worker
from processes import wait_until

from celeriac import Celeriac
from celeriac.exceptions import NotRoutable


def _taken(app: Celeriac) -> bool:
    try:
        app.send_task("shop.add", (1, 2), mandatory=True, require_consumer=True)
    except NotRoutable:
        return False
    return True


def test_require_consumer_and_mandatory_know_a_stock_worker(place: Place, tmp_path: Path) -> None:
    app = Celeriac("client", broker=place.broker, set_as_current=False)
    try:
        with pytest.raises(NotRoutable, match="no queue 'celery'"):
            app.send_task("shop.add", (1, 2), mandatory=True)
        with pytest.raises(NotRoutable, match="no worker consumes the queue 'celery'"):
            app.send_task("shop.add", (1, 2), require_consumer=True)
        worker = start_worker("celery", place, tmp_path / "worker.log")
        try:
            wait_until(lambda: _taken(app), timeout_s=20)  # a worker is asked, and a busy one takes its time to answer
            with pytest.raises(NotRoutable, match="'elsewhere'"):
                app.send_task("shop.add", (1, 2), queue="elsewhere", require_consumer=True)
        finally:
            worker.kill()
    finally:
        app.close()
