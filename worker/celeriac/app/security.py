"""Signed messages, as an app's settings ask for them. What signs is in broker/signing.py."""

from collections.abc import Iterable
from typing import Any

from celeriac.config import Settings
from celeriac.exceptions import ImproperlyConfigured

_NEEDED = ("security_key", "security_certificate", "security_cert_store")


def set_up(
    conf: Settings, *, allowed: Iterable[str] | None, key: str | None, password: Any, certificate: str | None, store: str | None,
    digest: str | None, serializer: str,
) -> None:  # fmt: skip
    """Register the serializer `auth` with these keys, or the settings'. Raises ImproperlyConfigured for what would leave a gap."""
    if conf.task_serializer != "auth" or list(conf.accept_content) != ["auth"]:
        raise ImproperlyConfigured(
            "setup_security() needs task_serializer='auth', so that calls are signed, and accept_content=['auth'], so that nothing else is run"
        )
    given = {
        "security_key": key or conf.security_key,
        "security_certificate": certificate or conf.security_certificate,
        "security_cert_store": store or conf.security_cert_store,
    }
    missing = [name for name in _NEEDED if not given[name]]
    if missing:
        raise ImproperlyConfigured(
            f"setup_security() needs {', '.join(_NEEDED)}: a key, its certificate, and a folder of those who are trusted;"
            f" there is no {', and no '.join(missing)}"
        )
    try:
        from celeriac.broker.signing import Signing, register  # an extra
    except ImportError as error:
        raise ImproperlyConfigured(
            f"signed messages need cryptography: pip install 'celeriac[auth]' ({error})"
        ) from error
    register(
        Signing(
            key=str(given["security_key"]), certificate=str(given["security_certificate"]), store=str(given["security_cert_store"]),
            digest=digest or conf.security_digest, password=password or conf.security_key_password, serializer=serializer,
            allowed=tuple(allowed or ()),
        )
    )  # fmt: skip


def check(conf: Settings, *, signs: bool) -> None:
    """Raise ImproperlyConfigured when settings ask for signed messages, and nobody has set them up."""
    if signs:
        return
    asked = [name for name in _NEEDED if conf[name]]
    asked += [f"{name} 'auth'" for name in ("task_serializer", "result_serializer") if conf[name] == "auth"]
    asked += ["accept_content 'auth'"] if "auth" in conf.accept_content else []
    if asked:
        raise ImproperlyConfigured(
            f"{', '.join(asked)} is set, and app.setup_security() was not called: messages would be neither signed nor verified"
        )
