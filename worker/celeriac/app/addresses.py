"""Where broker and result store are, and how to talk to them, as the settings say it: in one URL, or in the guide's parts."""

from typing import Any
from urllib.parse import quote

from celeriac.broker.connection import REDIS_SCHEMES, BrokerAddress
from celeriac.broker.plan import QueuePlan, queue_plan
from celeriac.config import Settings
from celeriac.exceptions import ImproperlyConfigured
from celeriac.policy.calling import app_terms
from celeriac.wire.message import Terms

#: What an app without any broker set talks to, as Celery's default does.
DEFAULT_BROKER = "amqp://guest:guest@localhost:5672//"


def broker_address(conf: Settings, plan: QueuePlan | None = None, url: str | None = None) -> BrokerAddress:
    """Where messages are read; `url` instead of it. plan: plan_of(conf), where it is at hand. Raises ImproperlyConfigured."""
    return BrokerAddress(
        url=url or conf.broker_read_url or broker_url(conf),
        transport_options=conf.broker_transport_options,
        ssl=conf.broker_use_ssl or None,
        connect_timeout_s=conf.broker_connection_timeout,
        delay_queue_type=conf.broker_native_delayed_delivery_queue_type,
        failover=conf.broker_failover_strategy,
        login_method=conf.broker_login_method,
        plan=plan or plan_of(conf),
    )


def plan_of(conf: Settings) -> QueuePlan:
    """Which queues there are, and how each is declared. Raises ImproperlyConfigured."""
    return queue_plan(
        conf.task_queues,
        default_queue=conf.task_default_queue,
        default_exchange=conf.task_default_exchange,
        default_exchange_type=conf.task_default_exchange_type,
        default_routing_key=conf.task_default_routing_key,
        default_queue_type=conf.task_default_queue_type,
        max_priority=conf.task_queue_max_priority,
        missing=conf.task_create_missing_queues,
        missing_type=conf.task_create_missing_queue_type,
        missing_exchange_type=conf.task_create_missing_queue_exchange_type,
    )


def publish_address(conf: Settings, plan: QueuePlan | None = None) -> BrokerAddress:
    """Where calls are sent."""
    return broker_address(conf, plan, conf.broker_write_url or broker_url(conf))


def usual_terms(conf: Settings) -> Terms | None:
    """What calls ask of their publish when they say nothing. Raises ImproperlyConfigured for a wrong policy."""
    try:
        return app_terms(
            retry=conf.task_publish_retry, policy=conf.task_publish_retry_policy, delivery_mode=conf.task_default_delivery_mode
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"setting task_publish_retry_policy cannot be used: {error}") from error


def broker_url(conf: Settings) -> str:
    """broker_url, or what broker_host, broker_port, broker_user, broker_password, broker_vhost and broker_transport make."""
    url: str | None = conf.broker_url
    if url:
        return url if "://" in url or not conf.broker_transport else f"{conf.broker_transport}://{url}"
    if not conf.broker_host:
        return f"{conf.broker_transport}://" if conf.broker_transport else DEFAULT_BROKER
    if "://" in conf.broker_host:
        return str(conf.broker_host)
    scheme, vhost = conf.broker_transport or "amqp", conf.broker_vhost
    if vhost is not None:
        vhost = vhost.removeprefix("/") if scheme in REDIS_SCHEMES else vhost
    return f"{scheme}://{_authority(conf.broker_user, conf.broker_password, conf.broker_host, conf.broker_port)}/{vhost or ''}"


def result_url(conf: Settings) -> str | None:
    """result_backend; `redis` alone means redis_host, redis_port, redis_db, redis_username and redis_password."""
    url: str | None = conf.result_backend
    if url != "redis":
        return url
    authority = _authority(conf.redis_username, conf.redis_password, conf.redis_host or "localhost", conf.redis_port)
    return f"{'rediss' if conf.redis_backend_use_ssl else 'redis'}://{authority}/{conf.redis_db or 0}"


#: Setting -> redis-py's name of it.
_OF_REDIS = {
    "redis_socket_timeout": "socket_timeout",
    "redis_socket_connect_timeout": "socket_connect_timeout",
    "redis_socket_keepalive": "socket_keepalive",
    "redis_retry_on_timeout": "retry_on_timeout",
    "redis_max_connections": "max_connections",
    "redis_backend_health_check_interval": "health_check_interval",
    "redis_client_name": "client_name",
}


def result_options(conf: Settings) -> dict[str, Any]:
    """Options of the result store: result_backend_transport_options, and what the redis_ settings say where they say anything."""
    options = {name: conf[setting] for setting, name in _OF_REDIS.items() if conf[setting] is not None}
    if conf.redis_backend_use_ssl:
        options["ssl"] = conf.redis_backend_use_ssl
    return {**options, **conf.result_backend_transport_options}


def _authority(user: str | None, password: str | None, host: str, port: int | None) -> str:
    account = ""
    if user or password:
        account = f"{quote(user or '', safe='')}{':' + quote(password, safe='') if password else ''}@"
    return f"{account}{host}{f':{port}' if port else ''}"
