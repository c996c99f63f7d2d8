"""What to send along with a question: versions, the platform, and the settings that were changed, without secrets."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from celeriac.config.secret import redacted


def report(app: Any) -> str:
    """The text, a line for each setting that differs from its default."""
    conf = app.conf
    return (
        f"software -> celeriac:{_version('celeriac')} kombu:{_version('kombu')} redis:{_version('redis')} amqp:{_version('amqp')}"
        f" py:{platform.python_version()}\n"
        f"platform -> system:{platform.system()} arch:{platform.machine()} kernel:{platform.release()}\n"
        f"broker -> {redacted(app.broker_address().url)}  profile -> {conf.profile}\n\n{conf.humanize()}"
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:  # an extra
        return "none"
