"""What to send along with a question: versions, the platform, and the settings that were changed, without secrets."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from celeriac.config.secret import redacted


def facts(app: Any) -> dict[str, Any]:
    """software and platform: name -> version; broker: its URL; profile; settings: those that differ from their defaults. No secrets."""
    return {
        "software": {
            **{name: _version(name) for name in ("celeriac", "kombu", "redis", "amqp")},
            "py": platform.python_version(),
        },
        "platform": {"system": platform.system(), "arch": platform.machine(), "kernel": platform.release()},
        "broker": redacted(app.broker_address().url),
        "profile": app.conf.profile,
        "settings": app.conf.table(),
    }


def report(app: Any) -> str:
    """The same as text, a line for each setting."""
    found = facts(app)
    software, system = (
        " ".join(f"{name}:{value}" for name, value in found[part].items()) for part in ("software", "platform")
    )
    return (
        f"software -> {software}\nplatform -> {system}\n"
        f"broker -> {found['broker']}  profile -> {found['profile']}\n\n{app.conf.humanize()}"
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:  # an extra
        return "none"
