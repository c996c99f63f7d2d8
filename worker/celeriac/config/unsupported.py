"""Celery's settings that do nothing here, each with the reason: code that sets them runs, and is told once.

Where it could hurt that one is passed over, setting it is an error. Whoever builds what one of these asks for moves its row to
`table.py`.
"""

from typing import Any

from celeriac.config.setting import Effect, Setting, anything, only


def _none(name: str, default: Any, help: str, *old: str) -> Setting:
    return Setting(name, anything, default, help, old=old, effect=Effect.NONE)


def _refused(name: str, accepted: tuple[Any, ...], help: str, *old: str) -> Setting:
    """accepted: the values that ask for what is done anyway; the first is the default."""
    return Setting(name, only(*accepted), accepted[0], help, old=old, effect=Effect.REFUSED)


def _family(prefix: str, help: str, old_prefix: str = "", /, **defaults: Any) -> tuple[Setting, ...]:
    """Settings of one kind. old_prefix: what stood before the rest of the name in Celery 3."""
    return tuple(
        _none(f"{prefix}_{rest}", default, help, *((f"{old_prefix}_{rest}".upper(),) if old_prefix else ()))
        for rest, default in defaults.items()
    )


_NO_STORE = "There is no such result store here."
_LEASES = (
    "A worker that loses its broker goes on, and settles what it ran when the broker is back; what it held is leased."
)
_RETRIED = "What a result store did not take is kept and sent again until it does; the waits between are fixed."

UNSUPPORTED: tuple[Setting, ...] = (
    # -- the broker
    _none("broker_pool_limit", 10, "A process keeps one connection to publish and one to consume; there is no pool that could run dry."),
    _none("broker_pool_acquire_timeout", None, "There is no pool of connections to wait for; task_publish_timeout bounds each publish."),
    _none("broker_connection_retry", True, "A worker that has run waits for its broker for ever: its messages are leased, and its pod would only be started again."),
    _none("broker_channel_error_retry", False, "Errors of a channel are retried, always."),
    _none("broker_heartbeat_checkrate", 3.0, "Heartbeats are kept with each turn of the loop."),
    # -- remote control and events
    *_family("control", "Queues of remote control are declared as Celery's clients declare theirs, so that either side may come first.",
             queue_ttl=300.0, queue_expires=10.0, queue_exclusive=True, queue_durable=False),
    _none("control_exchange", "celery", "Remote control uses Celery's exchange; apps that share a broker are told apart by a virtual host, a Redis database or global_keyprefix."),
    *_family("event", "Monitors of either library declare their own queues.", "celery_event",
             queue_expires=60.0, queue_ttl=5.0, queue_exclusive=True, queue_durable=False, queue_prefix="celeryev"),
    _none("event_exchange", "celeryev", "Events use Celery's exchange, which the operator and monitors listen to.", "CELERY_EVENT_EXCHANGE"),
    _none("event_serializer", "json", "Events are JSON.", "CELERY_EVENT_SERIALIZER"),
    # -- tasks
    _refused("task_protocol", (2, "2"), "Messages are written in protocol 2, which Celery reads since 4.0; protocol 1 is only read.", "CELERY_TASK_PROTOCOL"),
    _none("task_remote_tracebacks", False, "A remote traceback comes as a note on the exception, always.", "CELERY_REMOTE_TRACEBACKS"),
    _none("task_repr_maxlevels", 3, "Arguments shown to monitors are cut by length, at 1024 characters.", "CELERY_REPR_MAXLEVELS"),
    # -- the worker
    _none("worker_agent", None, "There are no agents (cells) here.", "CELERYD_AGENT"),
    _none("worker_autoscaler", "celery.worker.autoscale:Autoscaler", "--autoscale has one rule; the operator scales pods by objectives.", "CELERYD_AUTOSCALER"),
    _none("worker_consumer", "celery.worker.consumer:Consumer", "The consumer cannot be replaced.", "CELERYD_CONSUMER"),
    _none("worker_timer", None, "There is one timer.", "CELERYD_TIMER", "CELERYD_ETA_SCHEDULER"),
    _none("worker_timer_precision", 1.0, "The worker sleeps until the next thing is due.", "CELERYD_TIMER_PRECISION", "CELERYD_ETA_SCHEDULER_PRECISION"),
    _none("worker_cancel_long_running_tasks_on_connection_loss", False, _LEASES, "CELERYD_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS"),
    _none("worker_soft_shutdown_timeout", 0.0, "Each shutdown is bounded: worker_shutdown_grace_s says how long tasks may take, and then their messages go back.", "CELERYD_SOFT_SHUTDOWN_TIMEOUT"),
    _none("worker_enable_soft_shutdown_on_idle", False, "What a worker has claimed and not started goes back at once, always.", "CELERYD_ENABLE_SOFT_SHUTDOWN_ON_IDLE"),
    _none("worker_lost_wait", 10.0, "A lost process is settled at once: its last answer is read before its end is.", "CELERYD_WORKER_LOST_WAIT"),
    _none("worker_proc_alive_timeout", 4.0, "A child that does not become ready fails the liveness probe, which names it.", "CELERYD_PROC_ALIVE_TIMEOUT"),
    _none("worker_pool_putlocks", True, "A child is given a job when it is free, always.", "CELERYD_POOL_PUTLOCKS"),
    _none("worker_pool_restarts", False, "pool_restart is not answered: roll the Deployment out again.", "CELERYD_POOL_RESTARTS"),
    _none("worker_pool_start_method", "fork", "Children are forked from a template process that has one thread.", "CELERYD_POOL_START_METHOD"),
    _none("worker_eta_task_limit", None, "What is not due waits in the broker, not in the worker's memory.", "CELERYD_ETA_TASK_LIMIT"),
    _none("worker_enable_prefetch_count_reduction", True, "Slots are claimed for one by one, after an outage too.", "CELERYD_ENABLE_PREFETCH_COUNT_REDUCTION"),
    _none("worker_detect_quorum_queues", True, "Each consumer has its own limit, as quorum queues want it, always.", "CELERYD_DETECT_QUORUM_QUEUES"),
    _none("worker_state_db", None, "Revokes are kept in the coordination store, for all workers.", "CELERYD_STATE_DB"),
    # -- results
    _none("result_cache_max", -1, "A handle keeps its own result; there is no cache beside it.", "CELERY_MAX_CACHED_RESULTS"),
    _none("result_exchange", "celeryresults", "Results over AMQP are sent to the caller's own queue.", "CELERY_RESULT_EXCHANGE"),
    _none("result_exchange_type", "direct", "Results over AMQP are sent to the caller's own queue.", "CELERY_RESULT_EXCHANGE_TYPE"),
    _none("result_failure_expires", None, "Failures are kept as long as other results: result_expires.", "CELERY_RESULT_FAILURE_EXPIRES"),
    _none("result_chord_expires", None, "What is kept for a chord is kept as long as results: result_expires.", "CELERY_RESULT_CHORD_EXPIRES"),
    _none("result_chord_join_timeout", 3.0, "A chord is finished by the store, which hands over all results at once.", "CELERY_RESULT_CHORD_JOIN_TIMEOUT"),
    _none("result_chord_retry_interval", 1.0, "A chord is finished by the store, and nothing polls for it.", "CELERY_RESULT_CHORD_RETRY_INTERVAL"),
    *_family("result_backend", _RETRIED, "celery_result_backend",
             always_retry=False, max_retries=float("inf"), base_sleep_between_retries_ms=10, max_sleep_between_retries_ms=10_000),
    _none("database_engine_callback", None, "SQLAlchemy's own events can be listened to on sqlalchemy.Engine, for all engines."),
    *_family("cache", "Memcached result stores are not here yet.", "celery_cache", backend=None, backend_options={}),
    _none("mongodb_backend_settings", None, "MongoDB result stores are not here yet.", "CELERY_MONGODB_BACKEND_SETTINGS"),
    _none("tt_host", None, "Tokyo Tyrant result stores are not here yet."),
    _none("tt_port", None, "Tokyo Tyrant result stores are not here yet."),
    *_family("cassandra", _NO_STORE, entry_ttl=None, keyspace=None, port=None, read_consistency=None, servers=None, bundle_path=None,
             table=None, write_consistency=None, auth_provider=None, auth_kwargs=None, options={}),
    *_family("s3", _NO_STORE, access_key_id=None, secret_access_key=None, bucket=None, base_path=None, endpoint_url=None, region=None),
    *_family("azureblockblob", _NO_STORE, container_name="celery", retry_initial_backoff_sec=2, retry_increment_base=2, retry_max_attempts=3,
             base_path="", connection_timeout=20, read_timeout=120),
    *_family("gcs", _NO_STORE, bucket=None, project=None, base_path="", ttl=0),
    *_family("couchbase", _NO_STORE, "celery_couchbase", backend_settings=None),
    *_family("arangodb", _NO_STORE, "celery_arangodb", backend_settings=None),
    *_family("cosmosdbsql", _NO_STORE, database_name="celerydb", collection_name="celerycol", consistency_level="Session", max_retry_attempts=9,
             max_retry_wait_time=30),
    *_family("elasticsearch", _NO_STORE, "celery_elasticsearch", retry_on_timeout=None, max_retries=None, timeout=None, save_meta_as_text=True),
    # -- beat
    _none("beat_scheduler", "celery.beat:PersistentScheduler", "There is one scheduler, of beat_schedule; beat refuses any other, whose entries would never run.", "CELERYBEAT_SCHEDULER"),
    _none("beat_sync_every", 0, "Each tick is written down as it is sent.", "CELERYBEAT_SYNC_EVERY"),
    _none("beat_enable_remote_control", False, "beat answers over HTTP.", "CELERYBEAT_ENABLE_REMOTE_CONTROL"),
    _none("beat_remote_control_max_tick_age", None, "beat answers over HTTP.", "CELERYBEAT_REMOTE_CONTROL_MAX_TICK_AGE"),
    # -- of the guide's time
    _none("broker_insist", False, "RabbitMQ has forgotten what it meant."),
    _none("celeryd_mediator", None, "There is no mediator."),
    _none("worker_log_file", None, "Logs go to standard error, or where celeriac worker --logfile says.", "CELERYD_LOG_FILE"),
    _none("worker_log_level", None, "celeriac worker --loglevel says it.", "CELERYD_LOG_LEVEL"),
    _none("beat_log_file", None, "Logs go to standard error.", "CELERYBEAT_LOG_FILE"),
    _none("beat_log_level", None, "celeriac beat --loglevel says it.", "CELERYBEAT_LOG_LEVEL"),
    _none("control_broadcast_queue", None, "Remote control is Celery's of today.", "CELERY_BROADCAST_QUEUE"),
    _none("control_broadcast_exchange", None, "Remote control is Celery's of today.", "CELERY_BROADCAST_EXCHANGE"),
    _none("control_broadcast_exchange_type", None, "Remote control is Celery's of today.", "CELERY_BROADCAST_EXCHANGE_TYPE"),
    _none("result_amqp_connection_max", 1, "There is no pool of connections for results.", "CELERY_AMQP_TASK_RESULT_CONNECTION_MAX"),
)  # fmt: skip
