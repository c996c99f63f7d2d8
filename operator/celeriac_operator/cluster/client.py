"""One session to the Kubernetes API: raw JSON in and out, time-outs on every call, every failure as one of our errors.

Where the API is and who we are comes from `access`. The models of the `kubernetes` package are not used: they cost memory
and drop fields they do not know.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import orjson
import urllib3

from celeriac_operator.cluster.access import Access
from celeriac_operator.errors import (
    ClusterError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    ServerFailed,
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


class KubeClient:
    """Requests to one API server. Safe to use from several threads.

    access   how the server is reached, and as whom: an attribute, as is `server`, its URL.
    Every method raises a ClusterError; after a 429 with `Retry-After`, calls before that time fail at once, unsent.
    """

    def __init__(
        self,
        access: Access,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self.access = access
        self.server = access.endpoint().server
        self._pool = access.pool()
        self._timeout = urllib3.Timeout(connect=connect_timeout_s, read=read_timeout_s)
        self._held_until = 0.0  # monotonic; set by a 429

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
        headers = {"Accept": accept, "User-Agent": FIELD_MANAGER}
        if authorization := self.access.authorization():
            headers["Authorization"] = authorization
        data = None
        if body is not None:
            data = orjson.dumps(body)
            headers["Content-Type"] = content_type
        url = f"{self.server}{path}"
        if query := {name: value for name, value in (query or {}).items() if value != ""}:
            url = f"{url}?{urlencode(query)}"
        try:
            answer = self._pool.request(
                method, url, body=data, headers=headers, timeout=self._timeout, retries=False, redirect=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(
                f"{what}: no answer from the Kubernetes API at {self.server}: {error}", what=what
            ) from error
        if answer.status == 401:
            self.access.refused()
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
        self._pool.clear()

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
