"""How the API server is reached, and as whom: by the pod's service account, or by a kubeconfig.

A pod's way is two variables and two files, and is ours. A kubeconfig's (contexts, exec plug-ins, OIDC, inline certificates) is that
of the `kubernetes` package, which is imported nowhere but here and only for that: the operator's image does without it (decision 14).
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import unquote, urlsplit

import urllib3

from celeriac_operator.cluster.proxy import proxy_for
from celeriac_operator.errors import SetupError, Unauthorized

log = logging.getLogger("celeriac_operator.access")

#: Where Kubernetes mounts the token, the CA and the name of the namespace into a pod.
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: Seconds for which a token that was read is good: the kubelet writes a new one long before the old one expires (client-go: the same).
TOKEN_S = 60.0
#: Idle connections kept: each broker has a thread or two, and as many as ask at once are needed again.
CONNECTIONS = 100

_NEEDS = "a kubeconfig needs the `kubernetes` package: pip install 'celeriac[operator]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the API server is, and by which certificates the two know each other. Paths are of PEM files.

    server            https://host:port, without a slash at its end.
    ca_path           whom to trust; None for the system's store.
    tls_server_name   what the server's certificate says instead of the host in the URL; None for that.
    proxy_url         the HTTP proxy on the way there, perhaps with a password; None for none.
    """

    server: str
    ca_path: str | None = None
    certificate_path: str | None = None
    key_path: str | None = None
    verify: bool = True
    tls_server_name: str | None = None
    proxy_url: str | None = None


class Access(Protocol):
    """One API server and one user of it. Safe to use from several threads."""

    def endpoint(self) -> Endpoint:
        """The server as it is reached now. May take as long as `authorization`."""
        ...

    def authorization(self) -> str:
        """The Authorization header as of now, "" for none. May read a file or run a program. Raises Unauthorized."""
        ...

    def refused(self) -> None:
        """Take note of a 401: what is kept of the authorization may be out of date."""
        ...

    def pool(self) -> urllib3.PoolManager:
        """Connections to the server: a set of its own at each call, none of them open yet."""
        ...


def load_access(*, kubeconfig: str | None = None, context: str | None = None) -> Access:
    """The cluster to talk to: `kubeconfig` if named, else the pod's service account, else KUBECONFIG or ~/.kube/config.

    Raises SetupError when none of them works.
    """
    tried = []
    if kubeconfig is None and context is None:
        try:
            return ServiceAccount()
        except SetupError as error:
            tried.append(f"in-cluster: {error}")
    try:
        return Kubeconfig.load(kubeconfig, context)
    except SetupError as error:
        tried.append(f"{kubeconfig or 'KUBECONFIG or ~/.kube/config'}: {error}")
        raise SetupError(
            f"no way to reach a Kubernetes cluster ({'; '.join(tried)}). Run inside a pod with a service account, "
            "or name a kubeconfig with --kubeconfig or KUBECONFIG."
        ) from error


class ServiceAccount:
    """The account that Kubernetes gives to a pod.

    directory   holds `token` and `ca.crt`; None for where Kubernetes mounts them.
    environ     KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT say where the server is; HTTPS_PROXY and NO_PROXY count, too.
    Raises SetupError when a part is missing, as outside a pod.
    """

    def __init__(
        self,
        directory: Path | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        directory = directory or SERVICE_ACCOUNT
        host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "")
        if not host or not port.isdecimal():
            raise SetupError(
                f"KUBERNETES_SERVICE_HOST is {host or 'not set'}, KUBERNETES_SERVICE_PORT is {port or 'not set'}"
            )
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._token = TokenFile(directory / "token")
        ca = directory / "ca.crt"
        _content(ca)
        self._endpoint = Endpoint(server=server, ca_path=str(ca), proxy_url=proxy_for(server, environ))

    def endpoint(self) -> Endpoint:
        return self._endpoint

    def authorization(self) -> str:
        return f"Bearer {self._token.read()}"

    def refused(self) -> None:
        self._token.forget()

    def pool(self) -> urllib3.PoolManager:
        # By its path, the CA is read at each connection: a new one needs no restart.
        options: dict[str, Any] = {
            "cert_reqs": "CERT_REQUIRED",
            "ca_certs": self._endpoint.ca_path,
            "maxsize": CONNECTIONS,
        }
        proxy = self._endpoint.proxy_url
        if proxy is None:
            return urllib3.PoolManager(**options)
        return urllib3.ProxyManager(proxy, proxy_headers=_proxy_headers(proxy), **options)


class TokenFile:
    """A token in a file that is replaced from time to time; read again each minute. Safe to use from several threads.

    Raises SetupError when it cannot be read at first. Later the last one stays in use meanwhile, and the log says so once.
    """

    def __init__(self, path: Path, *, passed_s: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._passed_s = passed_s
        self._lock = threading.Lock()
        self._token = _content(path)
        self._good_until: float | None = passed_s() + TOKEN_S
        self._told = False

    def read(self) -> str:
        """The token, at most a minute old where the file can be read."""
        with self._lock:
            if self._good_until is None or self._passed_s() >= self._good_until:
                self._read_again()
            return self._token

    def forget(self) -> None:
        """Read the file at the next question."""
        with self._lock:
            self._good_until = None

    def _read_again(self) -> None:
        try:
            self._token = _content(self._path)
        except SetupError as error:
            if not self._told:
                log.warning("%s; the token read before stays in use, and each request looks again", error)
            self._told = True
        else:
            self._told = False
            self._good_until = self._passed_s() + TOKEN_S


class Kubeconfig:
    """What a kubeconfig says, in the hands of the `kubernetes` package: it renews tokens, runs exec plug-ins, builds the TLS pool.

    configuration   the package's `Configuration`, loaded.
    """

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration
        self._lock = threading.Lock()
        self._proxied = isinstance(self.pool(), urllib3.ProxyManager)

    @classmethod
    def load(cls, path: str | None, context: str | None) -> Self:
        """The access by a file; None for KUBECONFIG or ~/.kube/config, and for its current context. Raises SetupError."""
        try:
            from kubernetes.client import Configuration
            from kubernetes.config import load_kube_config
        except ImportError as error:
            raise SetupError(f"{_NEEDS} ({error})") from error
        configuration = Configuration()
        try:
            load_kube_config(
                config_file=path, context=context, client_configuration=configuration, persist_config=False
            )
        except _malformed() as error:
            raise SetupError(" ".join(str(error).split())) from error
        return cls(configuration)

    def endpoint(self) -> Endpoint:
        self.authorization()  # an exec plug-in may give a certificate
        known = self._configuration
        return Endpoint(
            server=str(known.host).rstrip("/"),
            ca_path=known.ssl_ca_cert,
            certificate_path=known.cert_file,
            key_path=known.key_file,
            verify=bool(known.verify_ssl),
            tls_server_name=known.tls_server_name,
            proxy_url=known.proxy if self._proxied else None,
        )

    def authorization(self) -> str:
        # Asking for the settings is what makes the package renew an expired token; it is not written for threads.
        with self._lock:
            try:
                settings = self._configuration.auth_settings()
            # Whatever a plug-in, its output or a file that is gone make the package raise.
            except Exception as error:
                raise Unauthorized(f"the kubeconfig's credentials cannot be renewed: {error!r}") from error
        for setting in settings.values():
            if setting["in"] == "header" and setting["value"]:
                return str(setting["value"])
        return ""

    def refused(self) -> None:
        """Nothing: the package knows when a token expires, and has no way to be told that it was refused."""

    def pool(self) -> urllib3.PoolManager:
        from kubernetes.client.rest import RESTClientObject

        made: urllib3.PoolManager = RESTClientObject(self._configuration).pool_manager
        return made


def own_namespace() -> str | None:
    """The namespace of the pod this process runs in, None outside a cluster."""
    try:
        return (SERVICE_ACCOUNT / "namespace").read_text().strip() or None
    except OSError:
        return None


def current_namespace(kubeconfig: str | None, context: str | None) -> str:
    """The namespace of this pod, or of the kubeconfig's context, or default."""
    own = own_namespace()
    if own and not kubeconfig and not context:
        return own
    try:
        from kubernetes.config import list_kube_config_contexts
    except ImportError:
        return "default"  # in a pod that has no kubeconfig to ask
    try:
        contexts, current = list_kube_config_contexts(config_file=kubeconfig)
    except _malformed():
        return "default"  # what is wrong with the file is told by load_access
    chosen = next((each for each in contexts if each["name"] == context), current) or {}
    return str((chosen.get("context") or {}).get("namespace") or "default")


def _malformed() -> tuple[type[Exception], ...]:
    """What the `kubernetes` package raises for a malformed kubeconfig, depending on which part of it is wrong."""
    from kubernetes.config import ConfigException
    from yaml import YAMLError

    return (ConfigException, YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError)


def _content(path: Path) -> str:
    """A file's text, without space around it. Raises SetupError when there is none."""
    try:
        content = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not content:
        raise SetupError(f"{path} is empty")
    return content


def _proxy_headers(url: str) -> Mapping[str, str]:
    """What a proxy wants to hear of who we are, from its URL; urllib3 leaves that to us."""
    parts = urlsplit(url)
    if parts.username is None:
        return {}
    return urllib3.make_headers(proxy_basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")
