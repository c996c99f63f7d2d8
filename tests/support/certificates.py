"""Keys and certificates of tests' own."""

import functools
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


class Identity(NamedTuple):
    """Files, in PEM."""

    key: Path
    certificate: Path


@functools.cache
def _key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def identity(
    folder: Path, name: str, *, days: tuple[float, float] = (-1, 1), password: str = "", store: Path | None = None, serial: int = 0,
    names: tuple[str, ...] = (),
) -> Identity:  # fmt: skip
    """Somebody's key and certificate, valid from and until so many days from now; the certificate in `store`, too.

    names   of the server that shows it: host names and addresses.
    """
    key, now = _key(name), datetime.now(UTC)
    who = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"), x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_named, names))), critical=False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    folder.mkdir(parents=True, exist_ok=True)
    found = Identity(folder / f"{name}.key", folder / f"{name}.pem")
    found.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
    found.certificate.write_bytes(certificate)
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
        (store / f"{name}.pem").write_bytes(certificate)
    return found


def _named(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
