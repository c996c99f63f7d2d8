"""Settings to addresses: one URL, or the guide's parts; what the redis_ settings add."""

import socket
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.app.addresses import broker_address, publish_address, result_options, result_url, usual_terms
from celeriac.broker.connection import BrokerAddress, connect
from celeriac.config import Settings
from celeriac.exceptions import BrokerUnavailable, ImproperlyConfigured
from celeriac.wire.message import Patience


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        pytest.param({}, "amqp://guest:guest@localhost:5672//", id="nothing"),
        pytest.param({"broker_url": "redis://h", "broker_host": "other"}, "redis://h", id="the URL stands above its parts"),
        pytest.param({"broker_url": ["redis://a", "redis://b"]}, "redis://a;redis://b", id="several"),
        pytest.param({"broker_url": "h:6379", "broker_transport": "redis"}, "redis://h:6379", id="a URL without a scheme"),
        pytest.param({"BROKER_HOST": "h"}, "amqp://h/", id="the guide's host"),
        pytest.param(
            {"BROKER_HOST": "h", "BROKER_PORT": 5673, "BROKER_USER": "me", "BROKER_PASSWORD": "p@ss/", "BROKER_VHOST": "/v"},
            "amqp://me:p%40ss%2F@h:5673//v", id="all of the guide's parts",
        ),
        pytest.param({"BROKER_BACKEND": "redis", "BROKER_HOST": "h", "BROKER_VHOST": "2"}, "redis://h/2", id="the guide's Redis"),
        pytest.param({"broker_transport": "memory"}, "memory://", id="a transport alone"),
    ],
)  # fmt: skip
def test_a_broker_may_be_said_in_one_url_or_in_parts(settings: dict[str, Any], url: str) -> None:
    conf = Settings(settings)

    assert broker_address(conf).url == publish_address(conf).url == url


def test_reading_and_writing_may_have_brokers_of_their_own() -> None:
    conf = Settings({"broker_url": "redis://h", "broker_read_url": "redis://r", "broker_write_url": "redis://w"})

    assert (broker_address(conf).url, publish_address(conf).url) == ("redis://r", "redis://w")
    del conf["broker_write_url"]
    assert publish_address(conf).url == "redis://h"


def test_a_call_goes_to_the_broker_for_writing(redis_server: Any) -> None:
    written = redis_server.url.replace("/0", "/3")
    app = Celeriac("shop", broker="redis://127.0.0.1:1/0", broker_write_url=written, set_as_current=False)

    with app:
        app.send_task("t", queue="written")

    with connect(BrokerAddress(url=written)) as connection:
        assert connection.default_channel.client.llen("written") == 1


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, None),
        ({"result_backend": "redis://h/1", "redis_host": "other"}, "redis://h/1"),
        ({"CELERY_RESULT_BACKEND": "redis"}, "redis://localhost/0"),
        (
            {"CELERY_RESULT_BACKEND": "redis", "CELERY_REDIS_HOST": "h", "CELERY_REDIS_PORT": 6380, "CELERY_REDIS_DB": 2, "redis_password": "p"},
            "redis://:p@h:6380/2",
        ),
        ({"result_backend": "redis", "redis_backend_use_ssl": {"ssl_cert_reqs": "none"}, "redis_host": "h"}, "rediss://h/0"),
    ],
)  # fmt: skip
def test_a_redis_for_results_may_be_said_in_parts(settings: dict[str, Any], url: str | None) -> None:
    assert result_url(Settings(settings)) == url


def test_options_of_the_result_store_are_what_somebody_has_set() -> None:
    conf = Settings(
        {"redis_socket_timeout": 3, "redis_socket_keepalive": False, "redis_backend_use_ssl": {"ssl_cert_reqs": "none"}}
    )

    assert result_options(Settings()) == {}
    assert result_options(conf) == {"socket_timeout": 3.0, "socket_keepalive": False, "ssl": {"ssl_cert_reqs": "none"}}
    conf.result_backend_transport_options = {"socket_timeout": 9, "global_keyprefix": "x"}
    assert result_options(conf)["socket_timeout"] == 9


def test_the_settings_of_redis_reach_the_result_stores_connections(redis_server: Any) -> None:
    app = Celeriac("shop", broker="memory://", backend=redis_server.url, set_as_current=False)
    app.conf.update(redis_socket_timeout=3, redis_client_name="shop-results", redis_max_connections=7)

    with app:
        app.backend.fetch("x")
        pool = app.backend._connection.default_channel.pool  # type: ignore[attr-defined]
        assert (pool.connection_kwargs["socket_timeout"], pool.max_connections) == (3.0, 7)
        with redis_server.client() as client:
            assert "shop-results" in {each["name"] for each in client.client_list()}


def test_tls_that_is_asked_for_is_never_left_out(redis_server: Any) -> None:
    """kombu takes True for Redis as no TLS at all."""
    conf = Settings({"broker_url": redis_server.url, "broker_use_ssl": True, "broker_connection_timeout": 2})

    with pytest.raises(BrokerUnavailable):
        connect(broker_address(conf))


def test_a_failover_strategy_and_a_login_method_reach_the_connection(redis_server: Any) -> None:
    tried: list[Any] = []

    def strategy(urls: Any) -> Any:
        tried.extend(urls)
        return iter(urls * 10)

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        urls = [f"redis://127.0.0.1:{closed.getsockname()[1]}/0", redis_server.url]
        conf = Settings({"broker_url": urls, "broker_failover_strategy": strategy, "broker_login_method": "EXTERNAL"})
        with connect(broker_address(conf)) as connection:
            assert connection.login_method == "EXTERNAL"
    assert tried == urls


@pytest.mark.parametrize(
    ("settings", "patience", "mode"),
    [
        ({"task_publish_retry": False}, Patience(0), 2),
        ({"task_publish_retry_policy": {"max_retries": 2, "interval_start": 0.5}}, Patience(2, 0.5, 0.2, 1.0), 2),
        ({"task_default_delivery_mode": "transient"}, Patience(), 1),
    ],
)
def test_settings_say_what_a_publish_is_asked_for(settings: dict[str, Any], patience: Patience, mode: int) -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False, **settings)
    lasting = app.task(lambda: 1, name="lasting", delivery_mode=2)

    terms = app.message("t", (), {}, None, countdown=None, eta=None, expires=None, task_id=None, options={}).terms
    own = app.message("t", (), {}, lasting, countdown=None, eta=None, expires=None, task_id=None, options={}).terms

    assert usual_terms(Settings()) is None
    assert terms is not None
    assert own is not None
    assert (terms.patience, terms.delivery_mode) == (patience, mode)
    assert (own.patience, own.delivery_mode) == (patience, 2)


def test_a_wrong_retry_policy_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"task_publish_retry_policy cannot be used: .*max_retires"):
        usual_terms(Settings({"task_publish_retry_policy": {"max_retires": 2}}))
