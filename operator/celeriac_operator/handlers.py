"""kopf watches, our index learns, the loop is poked: nothing else happens here.

Only `on.event` handlers: no change handlers, timers or daemons, hence no finalizer and no annotation on anybody's
objects, and no write at all through kopf. kopf's own reports (events) and its scan of CRDs and namespaces are off, so
that a Role in the served namespaces is all the operator needs.
"""

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import kopf

from celeriac_operator.cluster.client import PAGE, KubeClient
from celeriac_operator.cluster.index import WATCHED, ClusterIndex
from celeriac_operator.errors import NotFound

log = logging.getLogger("celeriac_operator.watch")

#: Seconds between two tries with credentials that were refused, and before watches that failed are begun again.
REFUSED_S = 5.0
RESTART_S = (1.0, 5.0, 15.0, 30.0)
#: Seconds kopf is given to end its tasks, twice: first to end them, then to have them cancelled.
END_S = 5.0
#: Seconds for which kopf keeps the task of an object that has no more news, and with it the raw object. As every object of the
#: cluster is news at first, this is what decides how far memory rises then, and it never falls as far.
IDLE_S = 0.1


class Watches:
    """kopf in a thread of its own: begins again when it fails, ends when told.

    namespaces   those to watch; empty for all.
    poke         told the namespace and name of each pool that an event concerns; must not block.
    """

    def __init__(
        self,
        client: KubeClient,
        index: ClusterIndex,
        *,
        namespaces: Sequence[str],
        poke: Callable[[str, str], None],
    ) -> None:
        self._client = client
        self._index = index
        self._namespaces = tuple(namespaces)
        self._poke = poke
        self._ending = threading.Event()
        self._running = False
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="watches", daemon=True)

    @property
    def running(self) -> bool:
        """Whether kopf is up; False between a failure and the next try."""
        return self._running

    @property
    def alive(self) -> bool:
        """Whether the watches are up, or are begun again."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the watches; returns when the thread is gone."""
        self._ending.set()
        loop, stop = self._event_loop, self._stop
        if loop and stop and not loop.is_closed():
            try:
                loop.call_soon_threadsafe(stop.set)
            except RuntimeError:  # it closed between the question and the call
                log.debug("the watches ended by themselves")
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        logging.getLogger("kopf._core.reactor.running").addFilter(_not_about_signals)
        failures = 0
        while not self._ending.is_set():
            began_at = time.monotonic()
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(self._unhandled)
            try:
                require_crd(self._client)  # kopf passes over a kind that is not served, and never looks again
                loop.run_until_complete(self._watch())
            # kopf raises whatever its innermost task raised: aiohttp's errors, its own, RuntimeError. The index gets no
            # news meanwhile, which `Watches.running` and the sweep tell; the loop goes on with what it knows.
            except Exception as error:  # noqa: BLE001
                failures = 0 if time.monotonic() - began_at > 300 else failures
                wait_s = RESTART_S[min(failures, len(RESTART_S) - 1)]
                failures += 1
                log.warning("watching failed, it begins again in %.0f s: %s: %s", wait_s, type(error).__name__, error)
                self._ending.wait(wait_s)
            finally:
                self._running = False
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
                loop.close()

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What no task of kopf's retrieved. While it is ended in the middle of its start, that is no news."""
        if self._ending.is_set():
            log.debug("while ending: %s: %r", context.get("message"), context.get("exception"))
        else:
            loop.default_exception_handler(context)

    async def _watch(self) -> None:
        self._event_loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._ending.is_set():
            return
        before = asyncio.all_tasks()
        async with await session_of(self._client) as session:
            roots = await kopf.spawn_tasks(
                registry=registry_of(self._client, session, self._index, self._poke),
                settings=settings_of(),
                standalone=True,
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=self._stop,
            )
            whole = asyncio.create_task(kopf.run_tasks(roots, ignored=before))
            self._running = True
            await asyncio.wait(roots, return_when=asyncio.FIRST_COMPLETED)  # told to stop, or one failed
            self._running = False
            # kopf waits for all of its tasks without a limit, and some of them can wait for each other.
            for _ in range(2):
                await asyncio.wait([whole], timeout=END_S)
                if whole.done():
                    break
                whole.cancel()
            await _end(asyncio.all_tasks() - before - {whole})
        error = whole.exception() if whole.done() and not whole.cancelled() else None
        if not self._ending.is_set():
            if error:
                raise error
            raise RuntimeError("kopf ended without being told to")


async def _end(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel what kopf left behind and let go of what it says: its session is about to be closed under it."""
    left = tasks - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=END_S)
    for task in left:
        if task.done() and not task.cancelled() and (error := task.exception()):
            log.debug("a task of kopf's ended with %r", error)


def require_crd(client: KubeClient) -> None:
    """Raises NotFound, saying what to do, when the API server does not serve WorkerPools."""
    path, plural = WATCHED["WorkerPool"]
    try:
        if any(resource.get("name") == plural for resource in client.get(path).get("resources") or ()):
            return
    except NotFound:
        pass  # the group has no kind at all: the same fault
    what_to_do = "apply the CRD (`celeriac-operator crd | kubectl apply -f -`)"
    message = f"{client.server} does not serve {plural}.celeriac.dev: {what_to_do}"
    raise NotFound(message, what=f"GET {path}", status=404)


def settings_of() -> kopf.OperatorSettings:
    """kopf as we run it: read only, in the namespaces it is given."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.networking.connect_timeout = 5.0
    settings.networking.request_timeout = 60.0
    settings.queueing.idle_timeout = IDLE_S
    settings.watching.chunk_size = PAGE
    settings.process.ultimate_exiting_timeout = None
    return settings


async def session_of(client: KubeClient) -> aiohttp.ClientSession:
    """A session to the client's server, as the client's user; it stays good however often the token changes.

    kopf's own sessions are closed at each change of credentials, which fails every watch that is open at that moment.
    """
    known = await asyncio.to_thread(client.access.endpoint)  # an exec plug-in may take its time
    context = ssl.create_default_context(cafile=known.ca_path)
    if known.certificate_path:
        context.load_cert_chain(known.certificate_path, known.key_path)
    if not known.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context),
        middlewares=(Authorized(client, known.tls_server_name),),
        proxy=known.proxy_url,
    )


class Authorized:
    """Puts the client's authorization on each request, as it is at that moment; a 401 is tried again, never passed on.

    tls_server_name   what the server's certificate says instead of the host in the URL; None for that.
    """

    def __init__(self, client: KubeClient, tls_server_name: str | None = None) -> None:
        self._client = client
        self._tls_server_name = tls_server_name

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.server_hostname = self._tls_server_name
        while True:
            if authorization := await asyncio.to_thread(self._client.access.authorization):
                request.headers["Authorization"] = authorization
            response = await handler(request)
            if response.status != 401:
                return response
            response.close()
            self._client.access.refused()
            log.warning("the Kubernetes API at %s does not accept our credentials", self._client.server)
            await asyncio.sleep(REFUSED_S)


def registry_of(
    client: KubeClient, session: aiohttp.ClientSession, index: ClusterIndex, poke: Callable[[str, str], None]
) -> kopf.OperatorRegistry:
    """The login, and one handler for every kind that is watched."""
    registry = kopf.OperatorRegistry()

    async def login(**_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=client.server, aiohttp_session=session)

    kopf.on.login(registry=registry, id="login")(login)
    feed = Feed(index, poke)
    for path, plural in WATCHED.values():
        group, version = ("", "v1") if path == "/api/v1" else path.removeprefix("/apis/").split("/")
        kopf.on.event(group, version, plural, registry=registry, id=f"watch-{plural}")(feed.seen)
    return registry


class Feed:
    """Hands what kopf saw to the index, and what the index finds of note to the loop."""

    def __init__(self, index: ClusterIndex, poke: Callable[[str, str], None]) -> None:
        self._index = index
        self._poke = poke

    async def seen(self, event: Mapping[str, Any], resource: kopf.Resource, **_: Any) -> None:
        """An object was listed, added, modified or deleted."""
        body = event["object"]
        gone = event["type"] == "DELETED"
        concerned = self._index.drop(body["metadata"]["uid"]) if gone else self._index.put(str(resource.kind), body)
        for namespace, name in concerned:
            self._poke(namespace, name)


def _not_about_signals(record: logging.LogRecord) -> bool:
    """Drops kopf's warning that it cannot handle signals in a thread: the main thread does, and tells it."""
    return not record.getMessage().startswith("OS signals are ignored")
