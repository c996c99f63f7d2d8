"""The operator's own signature, under commands to workers that demand one."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from celeriac.exceptions import ImproperlyConfigured
from celeriac_operator.errors import SetupError


class Lack(NamedTuple):
    """Why nothing can be signed now: a condition's reason, and what stands after "the operator" with what to do."""

    reason: str
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What commands are signed with. lack: why nothing can be signed at this moment, None when it can.

    name   of the certificate, as workers know it: issuer and number; "" without one.
    until  when the certificate expires, in epoch seconds; None without one.
    """

    lack: Callable[[], Lack | None]
    name: str = ""
    until: float | None = None


#: What an operator in a cluster has that was given no key.
NO_KEY = Lack(
    "SigningKeyMissing",
    "has no key to sign with: set signing.secretName in its chart (or --signing-key and --signing-certificate)",
)


def without_key(lack: Lack = NO_KEY) -> Signature:
    """That of an operator without a key."""
    return Signature(lack=lambda: lack)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFiles:
    """Where a key and its certificate are, in PEM. digest: of signatures, which is the workers' security_digest."""

    key: str
    certificate: str
    password: str = field(default="", repr=False)
    digest: str = "sha256"


def key_files(key: str | None, certificate: str | None, password: str | None, digest: str | None) -> KeyFiles | None:
    """What the options --signing-… name, None when they name nothing. Raises SetupError for one file of the two."""
    if not key and not certificate:
        return None
    if not key or not certificate:
        raise SetupError("--signing-key and --signing-certificate belong together: one was given without the other")
    return KeyFiles(key=key, certificate=certificate, password=password or "", digest=digest or "sha256")


def signing(files: KeyFiles, *, called: tuple[str, str, str]) -> Signature:
    """The signature of this key, which is this process's from now on. Raises SetupError for files that cannot be used.

    called   what the user calls key, certificate and digest: options, or settings.

    A certificate out of its time is no error: an operator that ended for it would scale nobody.
    """
    try:
        from celeriac.broker.signing import Called, Signer, register  # an extra
    except ImportError as error:
        raise SetupError(f"{called[0]} needs cryptography: pip install 'celeriac[operator,auth]' ({error})") from error
    try:
        signer = Signer(
            key=files.key, certificate=files.certificate, password=files.password, digest=files.digest, called=Called(*called)
        )  # fmt: skip
        register(signer)
    except ImproperlyConfigured as error:
        raise SetupError(str(error)) from error

    def lack() -> Lack | None:
        problem = signer.out_of_time(time.time())
        if not problem:
            return None
        says = f"signs with {called[1]} {files.certificate}, which {problem}: renew it, have the workers trust the new one, and restart the operator"
        return Lack("SigningCertificateOutOfTime", says)

    return Signature(lack=lack, name=signer.name, until=signer.valid_until)
