"""One session to the Kubernetes API: raw JSON in and out, time-outs on every call, every failure as one of our errors.

The `kubernetes` package finds the cluster and the credentials (kubeconfig, in-cluster, exec plug-ins, rotated tokens)
and builds the TLS pool; its models are not used: they cost memory and drop fields they do not know.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
import urllib3
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from celeriac_operator.errors import (
    ClusterError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    ServerFailed,
    SetupError,
    Throttled,
    Unauthorized,
    Unreachable,
)
from celeriac_operator.resources.labels import FIELD_MANAGER

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
#: Lists that carry the metadata alone: names, uids, versions.
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"

#: Seconds to connect, and to wait for an answer. A tick is 5 s: a call that needs longer is better made at the next.
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0

#: Objects a page of a list holds, so that a large namespace is not one answer of a hundred megabytes.
PAGE = 500

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_ERRORS: Mapping[int, type[ClusterError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: NotFound,
    409: Conflict,
    410: Gone,
    415: Invalid,
    422: Invalid,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What another HTTP client (kopf's) needs to reach the same server as the same user. Paths are of PEM files."""

    server: str
    authorization: str = ""
    ca_path: str | None = None
    certificate_path: str | None = None
    key_path: str | None = None
    verify: bool = True
    proxy_url: str | None = None


class KubeClient:
    """Requests to one API server. Safe to use from several threads.

    configuration   as loaded by the `kubernetes` package.
    Every method raises a ClusterError; after a 429 with `Retry-After`, calls before that time fail at once, unsent.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        user_agent: str = FIELD_MANAGER,
    ) -> None:
        self._configuration = configuration
        self._rest = RESTClientObject(configuration)
        self._timeout = urllib3.Timeout(connect=connect_timeout_s, read=read_timeout_s)
        self._user_agent = user_agent
        self._lock = threading.Lock()
        self._held_until = 0.0  # monotonic; set by a 429

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return str(self._configuration.host).rstrip("/")

    def credentials(self) -> Credentials:
        """The credentials as they are now: a token may have been rotated since the last call."""
        proxied = isinstance(self._rest.pool_manager, urllib3.ProxyManager)
        return Credentials(
            server=self.server,
            authorization=self._authorization(),
            ca_path=self._configuration.ssl_ca_cert,
            certificate_path=self._configuration.cert_file,
            key_path=self._configuration.key_file,
            verify=bool(self._configuration.verify_ssl),
            proxy_url=self._configuration.proxy if proxied else None,
        )

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """The object, list or discovery document at `path`."""
        return self.request("GET", path, query=query)

    def items(self, path: str, *, accept: str = JSON, **query: str) -> Iterator[dict[str, Any]]:
        """Every object of a list, page by page. One page is in memory at a time."""
        more = ""
        while True:
            page = self.request("GET", path, query={"limit": str(PAGE), **query, "continue": more}, accept=accept)
            kind = str(page.get("kind", "")).removesuffix("List")
            for item in page.get("items") or ():
                if kind:
                    item.setdefault("kind", kind)  # items of a typed list leave it out
                yield item
            more = str(page.get("metadata", {}).get("continue") or "")
            if not more:
                return

    def post(self, path: str, body: Any, **query: str) -> dict[str, Any]:
        """Create an object. Conflict when the name is taken."""
        return self.request("POST", path, query={"fieldManager": FIELD_MANAGER, **query}, body=body)

    def put(self, path: str, body: Any, **query: str) -> dict[str, Any]:
        """Replace an object. Conflict when its resourceVersion is no longer the one in `body`."""
        return self.request("PUT", path, query={"fieldManager": FIELD_MANAGER, **query}, body=body)

    def patch(self, path: str, body: Any, *, content_type: str = MERGE_PATCH, **query: str) -> dict[str, Any]:
        """Change parts of an object, by a merge patch or a JSON patch."""
        return self.request(
            "PATCH", path, query={"fieldManager": FIELD_MANAGER, **query}, body=body, content_type=content_type
        )

    def delete(self, path: str, *, uid: str, grace_s: int) -> dict[str, Any]:
        """Delete the object of that uid. Conflict when another has its name by now."""
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "gracePeriodSeconds": grace_s,
            "preconditions": {"uid": uid},
        }
        return self.request("DELETE", path, body=body)

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> dict[str, Any]:
        """The decoded answer to one request. Never repeated here: the next tick decides anew."""
        what = f"{method} {path}"
        self._refuse_while_held(what)
        headers = {"Accept": accept, "User-Agent": self._user_agent}
        if authorization := self._authorization():
            headers["Authorization"] = authorization
        data = None
        if body is not None:
            data = orjson.dumps(body)
            headers["Content-Type"] = content_type
        url = f"{self.server}{path}"
        if query := {name: value for name, value in (query or {}).items() if value != ""}:
            url = f"{url}?{urlencode(query)}"
        try:
            answer = self._rest.pool_manager.request(
                method, url, body=data, headers=headers, timeout=self._timeout, retries=False, redirect=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(
                f"{what}: no answer from the Kubernetes API at {self.server}: {error}", what=what
            ) from error
        if not 200 <= answer.status < 300:
            raise self._error(what, answer.status, answer.data, answer.headers)
        try:
            decoded = orjson.loads(answer.data or b"{}")
        except orjson.JSONDecodeError as error:
            message = f"{what}: {answer.status}, but not JSON; is {self.server} really a Kubernetes API?"
            raise ServerFailed(message, what=what, status=answer.status) from error
        return decoded if isinstance(decoded, dict) else {}

    def close(self) -> None:
        """Close the idle connections."""
        self._rest.pool_manager.clear()

    def _authorization(self) -> str:
        # Asking for the settings is what makes the package renew an expired token; it is not written for threads.
        with self._lock:
            for setting in self._configuration.auth_settings().values():
                if setting["in"] == "header" and setting["value"]:
                    return str(setting["value"])
        return ""

    def _refuse_while_held(self, what: str) -> None:
        left_s = self._held_until - time.monotonic()
        if left_s > 0:
            message = f"{what}: not sent, the Kubernetes API asked for fewer requests; next try in {left_s:.0f} s"
            raise Throttled(message, what=what, status=429, retry_after_s=left_s)

    def _error(self, what: str, status: int, body: bytes, headers: Mapping[str, str]) -> ClusterError:
        message = f"{what}: {status}: {_explanation(body) or 'no explanation'}"
        if status == 429:
            wait_s = _retry_after_s(headers)
            self._held_until = time.monotonic() + wait_s
            return Throttled(message, what=what, status=status, retry_after_s=wait_s)
        if status == 401:
            message += "; the credentials are not accepted: is the token expired, or the kubeconfig of another cluster?"
        if status == 403:
            message += "; grant the operator's Role this verb (chart: templates/rbac.yaml)"
        return _ERRORS.get(status, ServerFailed if status >= 500 else ClusterError)(message, what=what, status=status)


def load_configuration(*, kubeconfig: str | None = None, context: str | None = None) -> Configuration:
    """The cluster to talk to: `kubeconfig` if named, else the pod's service account, else KUBECONFIG or ~/.kube/config.

    Raises SetupError when none of them works.
    """
    configuration = Configuration()
    tried = []
    if kubeconfig is None and context is None:
        try:
            load_incluster_config(client_configuration=configuration)
        except ConfigException as error:
            tried.append(f"in-cluster: {error}")
        else:
            return configuration
    try:
        load_kube_config(
            config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
        )
    # A malformed file surfaces as any of these, depending on which part of it is wrong.
    except (ConfigException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        tried.append(f"{kubeconfig or 'KUBECONFIG or ~/.kube/config'}: {error}")
        raise SetupError(
            f"no way to reach a Kubernetes cluster ({'; '.join(tried)}). Run inside a pod with a service account, "
            "or name a kubeconfig with --kubeconfig or KUBECONFIG."
        ) from error
    return configuration


def own_namespace() -> str | None:
    """The namespace of the pod this process runs in, None outside a cluster."""
    try:
        return _NAMESPACE_FILE.read_text().strip() or None
    except OSError:
        return None


def _explanation(body: bytes) -> str:
    """The message of a Status object; of anything else only a hint, since it may hold anything."""
    try:
        status = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:200].decode(errors="replace").strip()
    if isinstance(status, dict) and status.get("kind") == "Status":
        return str(status.get("message") or status.get("reason") or "")
    return ""


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds, from 1 to 60. A date, which Kubernetes never sends, counts as the least."""
    try:
        return min(max(float(headers.get("Retry-After", "1")), 1.0), 60.0)
    except ValueError:
        return 1.0
