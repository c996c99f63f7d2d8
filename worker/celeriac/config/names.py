"""Which setting a name means, and which one it nearly means."""

from celeriac.config.setting import Setting
from celeriac.config.table import SETTINGS
from celeriac.config.unsupported import UNSUPPORTED

#: All that may be set, whether or not it does something.
EVERY: tuple[Setting, ...] = SETTINGS + UNSUPPORTED
BY_NAME: dict[str, Setting] = {setting.name: setting for setting in EVERY}
_OLD: dict[str, Setting] = {old: setting for setting in EVERY for old in setting.old}

#: Who uses these words means a setting: a name of theirs that nobody knows is a mistake. Projects' own values are called otherwise.
_OURS = (
    "task_", "worker_", "broker_", "result_", "beat_", "control_", "event_", "redis_", "database_", "security_", "mongodb_", "cache_",
    "celery_", "celeryd_", "celerybeat_", "celeriac_",
)  # fmt: skip
_OURS_IN_CAPITALS = ("CELERY_", "CELERYD_", "CELERYBEAT_", "CELERIAC_", "BROKER_")
_CAPITALS = [*_OLD, *(name.upper() for name in BY_NAME if name.startswith("broker_"))]
#: From here on two names count as one that was misspelt.
_NEAR = 0.88


def setting_of(name: str) -> Setting | None:
    """The setting of that name: today's, Celery's or the guide's old one, or today's in capitals."""
    return BY_NAME.get(name) or _OLD.get(name) or BY_NAME.get(name.lower())


def is_old(name: str) -> bool:
    """Whether it is a name of before Celery 4."""
    return name in _OLD


def looks_like_ours(name: str) -> bool:
    """Whether who wrote it meant a setting."""
    if name.isupper():  # modules hold more than settings, in capitals: there a likeness proves nothing
        return name.startswith(_OURS_IN_CAPITALS)
    return name.startswith(_OURS) or nearest(name, _NEAR) is not None


def nearest(name: str, cutoff: float = 0.75) -> str | None:
    """The setting whose name is most like it, in the same spelling, None when there is none."""
    import difflib  # only for who has mistyped one

    capitals = name.isupper() and name.startswith(_OURS_IN_CAPITALS)
    near = difflib.get_close_matches(
        name if capitals else name.lower(), _CAPITALS if capitals else BY_NAME, n=1, cutoff=cutoff
    )
    return near[0] if near else None


def hint(name: str) -> str:
    """` (did you mean …?)`, or nothing."""
    near = nearest(name)
    return f" (did you mean {near}?)" if near else ""
