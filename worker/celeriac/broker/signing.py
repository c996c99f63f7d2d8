"""Signed messages: kombu's serializer `auth`, in Celery's form, with cryptography's RSA.

The form (celery/security/serialization.py of 5.7): base64 of five parts with NUL SOH between them: base64 of the signer's certificate's
name, base64 of the signature, content type, content encoding, body. The signature is RSA-PSS of the body alone.
"""

import base64
import binascii
import glob
import logging
import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from kombu.serialization import registry

from celeriac.broker.codec import SIGNED, content_types, decode, encode
from celeriac.exceptions import ImproperlyConfigured, UntrustedMessage

log = logging.getLogger(__name__)

_BETWEEN = b"\x00\x01"
_DIGESTS = {"sha224", "sha256", "sha384", "sha512", "sha3_224", "sha3_256", "sha3_384", "sha3_512"}
#: What `auth` means in this process; kombu's registry is the process's, too.
_registered: list["Signer"] = []


class _Owner(NamedTuple):
    """Whose certificate it is, and what it proves."""

    name: str
    certificate: x509.Certificate
    key: rsa.RSAPublicKey


class Called(NamedTuple):
    """What the user calls that which may be wrong: an app's settings, or a command's options."""

    key: str = "security_key"
    certificate: str = "security_certificate"
    digest: str = "security_digest"


SETTINGS = Called()


class Signer:
    """Signs with one key, and reads nothing. Raises ImproperlyConfigured for files that cannot be used, never with what is in them."""

    def __init__(
        self, *, key: str, certificate: str, digest: str = "sha256", password: str | bytes | None = None, serializer: str = "json",
        called: Called = SETTINGS,
    ) -> None:  # fmt: skip
        """key, certificate: files in PEM. serializer: of what is signed."""
        self.source: tuple[Any, ...] = (key, certificate, digest, serializer)
        if str(digest).lower() not in _DIGESTS:
            raise ImproperlyConfigured(
                f"{called.digest} {digest!r} cannot be used; choose one of: {', '.join(sorted(_DIGESTS))}"
            )
        self._digest: hashes.HashAlgorithm = getattr(hashes, digest.upper())()
        self._padding = padding.PSS(mgf=padding.MGF1(self._digest), salt_length=padding.PSS.MAX_LENGTH)
        self._key = _private_key(key, password, called.key)
        own = _owner(certificate, called.certificate)
        if own.key.public_numbers() != self._key.public_key().public_numbers():
            raise ImproperlyConfigured(
                f"{called.certificate} {certificate!r} is not of the key {key!r}: nobody could verify what is signed"
            )
        if serializer == "auth":
            raise ImproperlyConfigured("a signed message holds another serializer's: serializer must not be 'auth'")
        #: As workers find the certificate in their store: its issuer and number.
        self.name = own.name
        #: Epoch seconds.
        self.valid_from, self.valid_until = (
            moment.timestamp() for moment in (own.certificate.not_valid_before_utc, own.certificate.not_valid_after_utc)
        )
        self._serializer = serializer

    def out_of_time(self, now: float) -> str:
        """Why nobody takes what is signed at this moment (epoch seconds), "" within the certificate's time."""
        return _out_of_time(self.valid_from, self.valid_until, now)

    def sign(self, value: Any) -> str:
        """The value, written and signed. Raises EncodeError."""
        content_type, encoding, body = encode(value, self._serializer)
        signature = self._key.sign(body, self._padding, self._digest)
        parts = (
            base64.b64encode(self.name.encode()),
            base64.b64encode(signature),
            content_type.encode(),
            encoding.encode(),
            body,
        )
        return base64.b64encode(_BETWEEN.join(parts)).decode()

    def read(self, payload: bytes | str) -> Any:
        """Nothing: who is trusted was not said. Raises UntrustedMessage."""
        raise UntrustedMessage("signed messages are not read here: there is no store of certificates")


class Signing(Signer):
    """Signs, and reads what the holders of the store's certificates have signed. Raises ImproperlyConfigured."""

    def __init__(
        self, *, key: str, certificate: str, store: str, digest: str = "sha256", password: str | bytes | None = None,
        serializer: str = "json", allowed: Iterable[str] = (),
    ) -> None:  # fmt: skip
        """store: a folder, or a glob, of certificates. allowed: serializers that are read beside the one of what is signed here."""
        super().__init__(key=key, certificate=certificate, digest=digest, password=password, serializer=serializer)
        self.source = (*self.source, store, tuple(sorted(allowed)))
        self._store = _owners(store)
        if not self._store:
            raise ImproperlyConfigured(f"security_cert_store {store!r} holds no certificate: no message would be read")
        if "auth" in allowed:
            raise ImproperlyConfigured("a signed message holds another serializer's: 'auth' cannot be allowed in it")
        self._accept = content_types({serializer, *allowed})

    def read(self, payload: bytes | str) -> Any:
        """The value, once its signature is verified. Raises UntrustedMessage with the reason; DecodeError for what cannot be read then."""
        try:
            name, signature, content_type, encoding, body = base64.b64decode(payload, validate=True).split(_BETWEEN, 4)
            named, proof = base64.b64decode(name, validate=True).decode(), base64.b64decode(signature, validate=True)
            kind, coding = content_type.decode(), encoding.decode()
        except (binascii.Error, ValueError) as error:
            raise UntrustedMessage(
                f"the message is not signed: it has not the form of a signed one ({error})"
            ) from None
        self._verify(named, proof, body)
        return decode(body, kind, coding, self._accept)

    def _verify(self, name: str, signature: bytes, body: bytes) -> None:
        owner = self._store.get(name)
        if owner is None:
            raise UntrustedMessage(f"signed by {name[:200]!r}, whose certificate is not in security_cert_store")
        problem = _problem(owner.certificate)
        if problem:
            raise UntrustedMessage(f"signed by {name!r}, whose certificate {problem}")
        try:
            owner.key.verify(signature, body, self._padding, self._digest)
        except InvalidSignature:
            raise UntrustedMessage(
                f"the signature is not that of {name!r}: the message was changed, or signed with another key or security_digest"
            ) from None


def register(signing: Signer) -> None:
    """Make it kombu's serializer `auth`. Raises ImproperlyConfigured when another app of this process has other keys."""
    if _registered and _registered[0].source != signing.source:
        raise ImproperlyConfigured(
            "another app of this process signs with other keys, and a process has one serializer 'auth': give both the same, or a process each"
        )
    _registered[:] = [signing]
    registry.register("auth", signing.sign, signing.read, content_type=SIGNED, content_encoding="utf-8")


def unregister() -> None:
    """Forget it, as tests do between one another."""
    if _registered:
        _registered.clear()
        registry.unregister("auth")


def _private_key(path: str, password: str | bytes | None, setting: str) -> rsa.RSAPrivateKey:
    secret = password.encode() if isinstance(password, str) else password
    try:
        key = serialization.load_pem_private_key(_file(path, setting), password=secret or None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: a password too few, or too many
        raise ImproperlyConfigured(f"{setting} {path!r} cannot be used: {error}") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ImproperlyConfigured(f"{setting} {path!r} is no RSA key; Celery's format knows no other")
    return key


def _owner(path: str, setting: str) -> _Owner:
    try:
        certificate = x509.load_pem_x509_certificate(_file(path, setting))
    except ValueError as error:
        raise ImproperlyConfigured(f"{setting}: {path!r} is no certificate in PEM: {error}") from None
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise ImproperlyConfigured(f"{setting}: {path!r} is not of an RSA key; Celery's format knows no other")
    issuer = " ".join(str(attribute.value) for attribute in certificate.issuer)
    return _Owner(f"{issuer} {certificate.serial_number}", certificate, key)


def _owners(path: str) -> Mapping[str, _Owner]:
    """The certificates of a folder or a glob, by name. One that is out of time is kept: what it has signed is refused with that reason."""
    found: dict[str, _Owner] = {}
    for each in sorted(glob.glob(os.path.join(path, "*") if os.path.isdir(path) else path)):
        if not os.path.isfile(each):  # Kubernetes mounts a Secret's versions as folders beside its files
            continue
        owner = _owner(each, "security_cert_store")
        if found.setdefault(owner.name, owner).certificate != owner.certificate:
            raise ImproperlyConfigured(
                f"security_cert_store {path!r} holds two certificates of {owner.name!r}: which one is right?"
            )
        problem = _problem(owner.certificate)
        if problem:
            log.warning("security_cert_store: the certificate %s %s: what it has signed is refused", each, problem)
    return found


def _problem(certificate: x509.Certificate) -> str:
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return _out_of_time(begin, end, time.time())


def _out_of_time(begin: float, end: float, now: float) -> str:
    if now >= end:
        return f"expired at {datetime.fromtimestamp(end, UTC).isoformat()}"
    if now < begin:
        return f"is not valid before {datetime.fromtimestamp(begin, UTC).isoformat()}"
    return ""


def _file(path: str, setting: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ImproperlyConfigured(f"{setting}: {path!r} cannot be read: {error.strerror}") from None
