"""The surroundings of a pod, without Kubernetes: a service account's files, its variables, the operator as its image has it."""

import ssl
from pathlib import Path

from certificates import Identity, identity

#: Run with the folder of a service account, then the command's own arguments.
OPERATOR = """
import sys
from pathlib import Path

sys.modules["kubernetes"] = None  # the image does not hold the package
from celeriac_operator.cluster import access

access.SERVICE_ACCOUNT = Path(sys.argv.pop(1))
from celeriac_operator.cli import main

main()
"""


def server_identity(folder: Path, *names: str) -> Identity:
    """Key and certificate of an API server on this machine, or of one of those names."""
    return identity(folder, "kubernetes", names=names or ("127.0.0.1",))


def server_tls(found: Identity) -> ssl.SSLContext:
    """What such a server speaks TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found.certificate, found.key)
    return context


def mount(folder: Path, server: Identity, *, token: str, namespace: str = "shop") -> Path:
    """The folder as Kubernetes would mount it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.crt").write_bytes(server.certificate.read_bytes())
    (folder / "token").write_text(token)
    (folder / "namespace").write_text(namespace)
    return folder


def variables(port: int, host: str = "127.0.0.1") -> dict[str, str]:
    """What Kubernetes puts into the environment of every container."""
    return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": str(port)}
