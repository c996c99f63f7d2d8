"""With which key local mode signs commands: its own option's, or the one that the workers' app is given."""

from collections.abc import Mapping, Sequence

from celeriac_operator.fleet.signature import KeyFiles, Lack, Signature, signing, without_key

_SETTINGS = ("CELERIAC_SECURITY_KEY", "CELERIAC_SECURITY_CERTIFICATE", "CELERIAC_SECURITY_DIGEST")
_OPTIONS = ("--signing-key", "--signing-certificate", "CELERIAC_SECURITY_DIGEST")

#: What local mode lacks when nobody has told it of a key.
NO_KEY = Lack(
    "SigningKeyMissing",
    "has no key to sign with: give `celeriac up` --signing-key and --signing-certificate, or the container the app's own as CELERIAC_SECURITY_KEY"
    " and CELERIAC_SECURITY_CERTIFICATE (what the code sets is not seen from here)",
)


def local_signature(named: KeyFiles | None, environments: Sequence[Mapping[str, str]]) -> Signature:
    """The signature of the key that was named, else of the first app whose environment names one, else none.

    environments   of the workers, a workload each. Raises SetupError for files that cannot be used.
    """
    if named is not None:
        return signing(named, called=_OPTIONS)
    for env in environments:
        key, certificate = (env.get(name, "") for name in _SETTINGS[:2])
        if key and certificate:
            password, digest = env.get("CELERIAC_SECURITY_KEY_PASSWORD", ""), env.get(_SETTINGS[2]) or "sha256"
            files = KeyFiles(key=key, certificate=certificate, password=password, digest=digest)
            return signing(files, called=_SETTINGS)
    return without_key(NO_KEY)
