"""A Kubernetes API server in this process, as far as the operator uses one: `with ApiServer() as api: ... api.url`.

Real: resource versions and conflicts, generations, /status and /scale, lists in pages, watches with bookmarks and
410, JSON and merge patches, PartialObjectMetadata, Status objects as errors. Not here: controllers, schemas, RBAC.
"""

import contextlib
import copy
import json
import re
import socket
import ssl
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

#: API path -> {plural: (kind, subresources)}.
RESOURCES: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "/api/v1": {
        "pods": ("Pod", ()),
        "secrets": ("Secret", ()),
        "events": ("Event", ()),
        "namespaces": ("Namespace", ()),
        "serviceaccounts": ("ServiceAccount", ()),
    },
    "/apis/apps/v1": {
        "deployments": ("Deployment", ("scale", "status")),
        "replicasets": ("ReplicaSet", ("scale", "status")),
        "statefulsets": ("StatefulSet", ("scale", "status")),
    },
    "/apis/autoscaling/v1": {"horizontalpodautoscalers": ("HorizontalPodAutoscaler", ())},
    "/apis/policy/v1": {"poddisruptionbudgets": ("PodDisruptionBudget", ())},
    "/apis/coordination.k8s.io/v1": {"leases": ("Lease", ())},
    "/apis/apiextensions.k8s.io/v1": {"customresourcedefinitions": ("CustomResourceDefinition", ())},
    "/apis/celeriac.dev/v1alpha1": {"workerpools": ("WorkerPool", ("status",))},
}
REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid"}

PATH = re.compile(
    r"(?P<group>/apis?(?:/[^/]+)?/v[^/]+)(?:/namespaces/(?P<ns>[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<part>scale|status))?"
)

#: (API path, plural, namespace, name)
Key = tuple[str, str, str, str]


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Fault:
    """What to do with requests that match, in place of an answer or before it."""

    method: str
    path: re.Pattern[str]
    status: int = 0
    times: int = -1
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None


class ApiServer:
    """The server and its objects. `token`: when set, requests need it as a bearer token.

    port   0: a free one.
    tls    with the server's certificate; None: plain HTTP.
    """

    def __init__(self, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.token = ""
        self.version = "v1.20.2"
        self.requests: list[tuple[str, str, dict[str, Any] | None]] = []
        self.faults: list[Fault] = []
        self.connections: set[socket.socket] = set()
        self.bookmark_s = 0.5
        self.hidden: set[str] = set()  # API paths that are not served
        self.denied: set[tuple[str, str]] = set()  # (verb, resource) that access reviews say no to
        self._objects: dict[Key, dict[str, Any]] = {}
        self._history: list[tuple[int, Key, str, dict[str, Any]]] = []
        self._version = 100
        self._compacted = 0
        self._changed = threading.Condition()
        self._closing = False
        self._epoch = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (_Handler,), {"api": self}))
        self._http.daemon_threads = False  # server_close waits for every answer, so that no thread is left
        self.port = int(self._http.server_address[1])
        self.tls = tls
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> "ApiServer":
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close_watches()
        self._closing = True
        with self._changed:
            self._changed.notify_all()
        self._http.shutdown()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # idle ones would be waited for
        self._http.server_close()
        self._thread.join()

    # -- what tests do -------------------------------------------------------------------------------------------------

    def put(self, plural: str, body: dict[str, Any], namespace: str = "shop") -> dict[str, Any]:
        """Create or replace an object as an administrator would, status included."""
        path, kind = _place(plural)
        with self._changed:
            key = (path, plural, namespace, body["metadata"]["name"])
            return copy.deepcopy(self._store(key, kind, body, "MODIFIED" if key in self._objects else "ADDED"))

    def get(self, plural: str, name: str, namespace: str = "shop") -> dict[str, Any]:
        path, _ = _place(plural)
        return copy.deepcopy(self._objects[path, plural, namespace, name])

    def all(self, plural: str) -> list[dict[str, Any]]:
        with self._changed:
            return [copy.deepcopy(body) for (_, kind, _, _), body in self._objects.items() if kind == plural]

    def delete(self, plural: str, name: str, namespace: str = "shop", *, told: bool = True) -> None:
        """told False: no watch hears of it, as after a gap."""
        path, _ = _place(plural)
        with self._changed:
            self._remove((path, plural, namespace, name), told=told)

    def change_untold(self, plural: str, name: str, change: dict[str, Any], namespace: str = "shop") -> None:
        """Merge `change` into an object behind the watches' backs."""
        path, _ = _place(plural)
        with self._changed:
            self._version += 1
            body = self._objects[path, plural, namespace, name]
            merged = _merge(body, change)
            merged["metadata"]["resourceVersion"] = str(self._version)
            self._objects[path, plural, namespace, name] = merged

    def compact(self) -> None:
        """Forget the past: watches from before now get a 410."""
        with self._changed:
            self._version += 1
            self._compacted = self._version
            self._history.clear()
            self._changed.notify_all()

    def fail(self, method: str, path: str, **fault: Any) -> Fault:
        """Answer requests whose path matches with a fault; the newest fault wins. `faults.clear()` ends it."""
        self.faults.insert(0, made := Fault(method=method, path=re.compile(path), **fault))
        return made

    def close_watches(self) -> None:
        """Break off every watch, as a load balancer does."""
        with self._changed:
            self._epoch = self._epoch + 1
            self._changed.notify_all()

    def sent(self, method: str, path: str = "") -> list[tuple[str, dict[str, Any] | None]]:
        """(path, body) of the requests with this method whose path matches."""
        return [(at, body) for verb, at, body in list(self.requests) if verb == method and re.search(path, at)]

    # -- what requests do ----------------------------------------------------------------------------------------------

    def read(self, key: Key) -> dict[str, Any]:
        if key not in self._objects:
            raise Refused(404, f'{key[1]} "{key[3]}" not found')
        return self._objects[key]

    def list(self, path: str, plural: str, namespace: str, query: dict[str, str]) -> dict[str, Any]:
        with self._changed:
            keys = [k for k in self._objects if k[:2] == (path, plural) and namespace in ("", k[2])]
            start, limit = int(query.get("continue") or 0), int(query.get("limit") or 0) or len(keys)
            items = [copy.deepcopy(self._objects[key]) for key in keys[start : start + limit]]
            more = str(start + limit) if start + limit < len(keys) else ""
            metadata = {"resourceVersion": str(self._version), "continue": more}
        for item in items:
            item.pop("kind"), item.pop("apiVersion")
        kind = RESOURCES[path][plural][0]
        return {"kind": f"{kind}List", "apiVersion": _api_version(path), "metadata": metadata, "items": items}

    def create(self, key: Key, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        with self._changed:
            if key in self._objects:
                raise Refused(409, f'{key[1]} "{key[3]}" already exists')
            return self._store(key, kind, body, "ADDED")

    def replace(self, key: Key, body: dict[str, Any], part: str) -> dict[str, Any]:
        with self._changed:
            before = self.read(key)
            asked = body.get("metadata", {}).get("resourceVersion")
            if asked and asked != before["metadata"]["resourceVersion"]:
                raise Refused(409, "the object has been modified; please apply your changes to the latest version")
            if part == "scale":
                body = {**before, "spec": {**before["spec"], "replicas": body["spec"]["replicas"]}}
            elif part == "status":
                body = {**before, "status": body.get("status", {})}
            elif "status" in RESOURCES[key[0]][key[1]][1] and "status" in before:
                body = {**body, "status": before["status"]}
            return self._store(key, before["kind"], body, "MODIFIED")

    def patch(self, key: Key, patch: Any, part: str) -> dict[str, Any]:
        before = copy.deepcopy(self.read(key))
        after = _json_patch(before, patch) if isinstance(patch, list) else _merge(before, patch)
        after["metadata"].pop("resourceVersion", None)
        return self.replace(key, after, part)

    def remove(self, key: Key, uid: str | None = None) -> None:
        with self._changed:
            if uid not in (None, self.read(key)["metadata"]["uid"]):
                raise Refused(409, "the UID in the precondition does not match the UID in record")
            self._remove(key, told=True)

    def watch(self, path: str, plural: str, namespace: str, query: dict[str, str]) -> Any:
        """Yields events (dicts) for ever, None when the connection should break."""
        since = int(query.get("resourceVersion") or self._version)
        epoch = self._epoch
        bookmark_at = time.monotonic() + self.bookmark_s
        while True:
            with self._changed:
                if self._closing or self._epoch != epoch:
                    return
                if since < self._compacted:
                    yield {"type": "ERROR", "object": _status(410, "too old resource version")}
                    return
                found = [
                    (version, kind, body)
                    for version, key, kind, body in self._history
                    if version > since and key[:2] == (path, plural) and namespace in ("", key[2])
                ]
                if not found:
                    self._changed.wait(max(0.01, bookmark_at - time.monotonic()))
            for version, kind, body in found:
                since = version
                yield {"type": kind, "object": body}
            if time.monotonic() >= bookmark_at:
                bookmark_at = time.monotonic() + self.bookmark_s
                since = max(since, self._version if not self._pending(path, plural, namespace, since) else since)
                kind = RESOURCES[path][plural][0]
                yield {"type": "BOOKMARK", "object": {"kind": kind, "metadata": {"resourceVersion": str(since)}}}

    def _pending(self, path: str, plural: str, namespace: str, since: int) -> bool:
        with self._changed:
            return any(
                v > since and k[:2] == (path, plural) and namespace in ("", k[2]) for v, k, _, _ in self._history
            )

    def _store(self, key: Key, kind: str, body: dict[str, Any], event: str) -> dict[str, Any]:
        before = self._objects.get(key)
        self._version += 1
        known = (before or {}).get("metadata", {})
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        metadata = {
            "creationTimestamp": known.get("creationTimestamp", stamp),
            "uid": known.get("uid") or str(uuid.uuid4()),
            "generation": known.get("generation", 0),
            **body.get("metadata", {}),
            "name": key[3],
            "namespace": key[2],
            "resourceVersion": str(self._version),
        }
        if before is None or before.get("spec") != body.get("spec"):
            metadata["generation"] = known.get("generation", 0) + 1
        stored = copy.deepcopy({**body, "kind": kind, "apiVersion": _api_version(key[0]), "metadata": metadata})
        self._objects[key] = stored
        self._history.append((self._version, key, event, copy.deepcopy(stored)))
        self._changed.notify_all()
        return stored

    def _remove(self, key: Key, *, told: bool) -> None:
        body = self._objects.pop(key)
        self._version += 1
        if told:
            body["metadata"]["resourceVersion"] = str(self._version)
            self._history.append((self._version, key, "DELETED", body))
            self._changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    api: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out apart: each answer would wait 40 ms for an ACK

    def setup(self) -> None:
        if self.api.tls:  # here, so that a slow client holds up its own thread alone
            self.request = self.api.tls.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
        super().setup()
        self.api.connections.add(self.connection)

    def handle(self) -> None:
        try:
            if isinstance(self.connection, ssl.SSLSocket):
                self.connection.do_handshake()
        except OSError:
            return  # a client that does not trust us, or does not speak TLS
        super().handle()

    def finish(self) -> None:
        self.api.connections.discard(self.connection)
        super().finish()
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        url = urlsplit(self.path)
        self.api.requests.append((self.command, url.path, body))
        try:
            if self.api.token and self.headers.get("Authorization", "").lower() != f"bearer {self.api.token}".lower():
                raise Refused(401, "Unauthorized")
            if not self._faulty(url.path):
                query = {name: values[-1] for name, values in parse_qs(url.query).items()}
                self._route(url.path.rstrip("/"), query, body)
        except Refused as refused:
            self._answer(refused.status, _status(refused.status, str(refused)))
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True

    def _faulty(self, path: str) -> bool:
        for fault in self.api.faults:
            if fault.method in ("*", self.command) and fault.path.search(path) and fault.times != 0:
                fault.times -= 1
                time.sleep(fault.delay_s)
                if fault.status:
                    content = fault.body if fault.body is not None else _status(fault.status, "as told")
                    self._answer(fault.status, content, fault.headers)
                return bool(fault.status)
        return False

    def _route(self, path: str, query: dict[str, str], body: Any) -> None:
        if path == "/api":
            return self._answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        if path == "/version":
            return self._answer(200, {"gitVersion": self.api.version})
        if path.endswith(("/selfsubjectaccessreviews", "/subjectaccessreviews")):
            asked = body["spec"]["resourceAttributes"]
            allowed = (asked["verb"], asked["resource"]) not in self.api.denied
            return self._answer(201, {**body, "status": {"allowed": allowed}})
        served = {group: found for group, found in RESOURCES.items() if group not in self.api.hidden}
        if path == "/apis":
            groups = [group.removeprefix("/apis/").split("/") for group in served if group.startswith("/apis/")]
            versions = [(name, {"groupVersion": f"{name}/{version}", "version": version}) for name, version in groups]
            listed = [{"name": name, "versions": [v], "preferredVersion": v} for name, v in versions]
            return self._answer(200, {"kind": "APIGroupList", "groups": listed})
        if path in served:
            return self._answer(200, {"kind": "APIResourceList", "resources": _discovery(served[path])})
        match = PATH.fullmatch(path)
        if not match or match["group"] not in served or match["plural"] not in served[match["group"]]:
            raise Refused(404, "the server could not find the requested resource")
        group, plural, namespace = match["group"], match["plural"], match["ns"] or ""
        kind = served[group][plural][0]
        key = (group, plural, namespace, match["name"] or (body or {}).get("metadata", {}).get("name", ""))
        part = match["part"] or ""
        if self.command == "GET" and not match["name"]:
            if query.get("watch") == "true":
                return self._stream(self.api.watch(group, plural, namespace, query))
            listed = self.api.list(group, plural, namespace, query)
            return self._answer(
                200, _metadata_only(listed) if "PartialObjectMetadata" in self.headers["Accept"] else listed
            )
        match self.command:
            case "GET":
                found = copy.deepcopy(self.api.read(key))
                return self._answer(200, _scale(found) if part == "scale" else found)
            case "POST":
                return self._answer(201, self.api.create(key, kind, body))
            case "PUT":
                found = self.api.replace(key, body, part)
                return self._answer(200, _scale(found) if part == "scale" else found)
            case "PATCH":
                return self._answer(200, self.api.patch(key, body, part))
            case _:
                self.api.remove(key, ((body or {}).get("preconditions") or {}).get("uid"))
                return self._answer(200, {"kind": "Status", "status": "Success"})

    def _stream(self, events: Any) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for event in events:
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _place(plural: str) -> tuple[str, str]:
    return next((path, kinds[plural][0]) for path, kinds in RESOURCES.items() if plural in kinds)


def _api_version(path: str) -> str:
    return path.removeprefix("/apis/").removeprefix("/api/")


def _status(code: int, message: str) -> dict[str, Any]:
    reason = REASONS.get(code, "InternalError")
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def _discovery(kinds: dict[str, tuple[str, tuple[str, ...]]]) -> list[dict[str, Any]]:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    found = []
    for plural, (kind, parts) in kinds.items():
        names = (plural, *(f"{plural}/{part}" for part in parts))
        found += [{"name": n, "singularName": "", "namespaced": True, "kind": kind, "verbs": verbs} for n in names]
    return found


def _metadata_only(listed: dict[str, Any]) -> dict[str, Any]:
    items = [{"kind": "PartialObjectMetadata", "metadata": item["metadata"]} for item in listed["items"]]
    return {**listed, "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "items": items}


def _scale(body: dict[str, Any]) -> dict[str, Any]:
    metadata = {name: body["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
    spec, status = body.get("spec", {}), body.get("status", {})
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": spec.get("replicas", 1)},
        "status": {"replicas": status.get("replicas", 0)},
    }


def _merge(body: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(body) if isinstance(body, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


def _json_patch(body: dict[str, Any], patch: list[dict[str, Any]]) -> dict[str, Any]:
    """RFC 6902: test, add, replace and remove of members."""
    for step in patch:
        *parents, last = step["path"].lstrip("/").split("/")
        node: Any = body
        for parent in parents:
            node = node[parent]
        if step["op"] == "test" and node.get(last) != step["value"]:
            raise Refused(422, "the server rejected our request due to an error in our request")
        if step["op"] in ("add", "replace"):
            node[last] = step["value"]
        if step["op"] == "remove":
            del node[last]
    return body
