"""Several handles, read together: what a group gives back, and any set of them."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from celeriac import states
from celeriac.backends.base import ResultBackend
from celeriac.exceptions import TimeoutError  # noqa: A004 - ours is the builtin's child
from celeriac.result.handle import AsyncResult, ResultBase, apps, as_read
from celeriac.wire.result import ResultMeta

#: Seconds that one member of several is waited for alone; then all that are left are listened to, so that a failure is heard of at once.
ALONE_S = 1.0


class ResultSet(ResultBase):
    """Several results, read together."""

    def __init__(self, results: Iterable[Any] = (), app: Any = None, **_: Any) -> None:
        self.results: list[Any] = list(results)
        self._app = app

    # -- the members

    def add(self, result: Any) -> None:
        """One more, unless it is in it."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """One less; by handle or id. Raises KeyError."""
        found = [one for one in self.results if result in (one, one.id)]
        if not found:
            raise KeyError(result)
        self.results.remove(found[0])

    def discard(self, result: Any) -> None:
        """One less, if it is in it."""
        if result in self.results:
            self.results.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """All of these, too."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """None."""
        self.results.clear()

    def leaves(self) -> "list[AsyncResult]":
        """The handles of calls, those of groups within among them."""
        found: list[AsyncResult] = []
        for result in self.results:
            if isinstance(result, ResultSet):
                found += result.leaves()
            else:
                found.append(result)
        return found

    def _read(self, leaves: "Sequence[AsyncResult]") -> None:
        """Ask the stores for those that are not ready, each store once."""
        asked: dict[int, tuple[ResultBackend, list[AsyncResult]]] = {}
        for leaf in leaves:
            if leaf._cache is None:
                asked.setdefault(id(leaf._backend), (leaf._backend, []))[1].append(leaf)
        for backend, some in asked.values():
            found = backend.fetch_many([leaf.id for leaf in some])
            for leaf in some:
                meta = found.get(leaf.id)
                if meta is not None and meta.status in states.READY_STATES:
                    leaf._cache = meta

    # -- how they are

    def ready(self) -> bool:
        """Whether all have ended."""
        leaves = self.leaves()
        self._read(leaves)
        return all(leaf._cache is not None for leaf in leaves)

    def waiting(self) -> bool:
        """Whether one has not ended."""
        return not self.ready()

    def completed_count(self) -> int:
        """How many members have ended well, as Celery counts: a group within is one."""
        self._read(self.leaves())
        return sum(result.successful() for result in self.results)

    def successful(self) -> bool:
        """Whether all have ended well."""
        leaves = self.leaves()
        self._read(leaves)
        return all(leaf._cache is not None and leaf._cache.status == states.SUCCESS for leaf in leaves)

    def failed(self) -> bool:
        """Whether one has failed."""
        leaves = self.leaves()
        self._read(leaves)
        return any(leaf._cache is not None and leaf._cache.status == states.FAILURE for leaf in leaves)

    def maybe_throw(self, callback: Any = None, propagate: bool = True) -> None:
        """Raise the error of a member that has one."""
        leaves = self.leaves()
        self._read(leaves)
        for leaf in leaves:
            if leaf._cache is not None:
                leaf.maybe_throw(propagate=propagate, callback=callback)

    maybe_reraise = maybe_throw

    # -- waiting

    def get(
        self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5, callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True, on_message: Callable[..., Any] | None = None, disable_sync_subtasks: bool = True, on_interval: Any = None,
    ) -> list[Any]:  # fmt: skip
        """All values in the members' order, a list for a group within. As AsyncResult.get for each; timeout: seconds for all of them.

        callback(id, value) is called for each call, as its end is heard of. on_message, on_interval: as AsyncResult.get's.

        Raises a member's error, without waiting for the others; TimeoutError; RuntimeError inside a task.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        leaves = self.leaves()
        values: dict[int, Any] = {}
        for leaf in leaves[:1]:
            leaf._may_be_waited_for(disable_sync_subtasks)
        alone = on_message is None and on_interval is None
        if alone:
            self._read(leaves)
        if propagate:
            _raise_first(leaves)

        def ended(leaf: AsyncResult) -> None:
            values[id(leaf)] = value = leaf.get(0.0, propagate, disable_sync_subtasks=disable_sync_subtasks)
            if callback is not None:
                callback(leaf.id, value)

        for place, leaf in enumerate(leaves):
            if id(leaf) in values:
                continue
            if alone and leaf._cache is None and not leaf.ignored:
                left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                most_s = left_s if place == len(leaves) - 1 else ALONE_S if left_s is None else min(ALONE_S, left_s)
                leaf._cache = leaf._backend.wait(leaf.id, most_s, interval)
                following = leaves[place + 1 : place + 501]  # of which some will have ended meanwhile
                self._read(following)
                if propagate:
                    _raise_first(following)
            if leaf._cache is None and not leaf.ignored:
                left = [one for one in leaves[place:] if one._cache is None and not one.ignored]
                self._listen(left, deadline, interval, ended, on_message, on_interval)
            else:
                ended(leaf)
        return self._in_order(values)

    def _listen(
        self, left: "Sequence[AsyncResult]", deadline: float | None, interval: float, ended: "Callable[[AsyncResult], None]",
        on_message: Callable[[dict[str, Any]], Any] | None, on_interval: Callable[[], Any] | None,
    ) -> None:  # fmt: skip
        """Hear of all these at once, until each has ended."""
        from celeriac.backends.watching import watcher_of

        told: queue.SimpleQueue[tuple[str, ResultMeta | Exception]] = queue.SimpleQueue()
        waiting: dict[str, list[AsyncResult]] = {}
        for leaf in left:
            waiting.setdefault(leaf.id, []).append(leaf)

        def hear(task_id: str, meta: ResultMeta | Exception) -> None:
            told.put((task_id, meta))

        cancels = [
            watcher_of(leaves[0]._backend).watch(task_id, partial(hear, task_id)) for task_id, leaves in waiting.items()
        ]
        try:
            while waiting:
                left_s = interval if deadline is None else min(interval, deadline - time.monotonic())
                try:
                    task_id, meta = told.get(timeout=max(0.0, left_s))
                except queue.Empty:
                    if deadline is not None and time.monotonic() >= deadline:
                        late = f"{len(waiting)} of {len(self.leaves())} tasks were not ready in time, {next(iter(waiting))} among them"
                        raise TimeoutError(late) from None
                    if on_interval is not None:
                        on_interval()
                    continue
                if task_id not in waiting:
                    continue
                if isinstance(meta, Exception):
                    raise meta
                if on_message is not None:
                    on_message(as_read(meta))
                if meta.status in states.READY_STATES:
                    for leaf in waiting.pop(task_id):
                        leaf._cache = meta
                        ended(leaf)
        finally:
            for cancel in cancels:
                cancel()

    join = join_native = wait = get

    async def aget(
        self, timeout: float | None = None, propagate: bool = True, *, disable_sync_subtasks: bool = True
    ) -> list[Any]:
        """`get` for coroutines."""
        from celeriac.backends.awaiting import together  # asyncio, only for who has a loop

        leaves = self.leaves()
        values = await together(
            [leaf.aget(propagate=propagate, disable_sync_subtasks=disable_sync_subtasks) for leaf in leaves], timeout
        )
        if values is None:
            late = sum(leaf._cache is None for leaf in leaves)
            raise TimeoutError(f"{late} of {len(leaves)} tasks were not ready within {timeout} s")
        return self._in_order({id(leaf): value for leaf, value in zip(leaves, values, strict=True)})

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self.aget().__await__()

    def _in_order(self, values: dict[int, Any]) -> list[Any]:
        return [
            result._in_order(values) if isinstance(result, ResultSet) else values[id(result)] for result in self.results
        ]

    def then(
        self, callback: "Callable[[ResultSet], Any]", on_error: "Callable[[ResultSet], Any] | None" = None, weak: bool = False
    ) -> "ResultSet":  # fmt: skip
        """Have this called with the set when all have ended; with on_error, that one where one has ended badly. See AsyncResult.then."""
        leaves = [leaf for leaf in self.leaves() if not leaf.ignored]
        lock, left = threading.Lock(), [len(leaves)]

        def one_less(_: Any = None) -> None:
            with lock:
                left[0] -= 1
                last = left[0] <= 0
            if last:
                failed = any(leaf.state in states.PROPAGATE_STATES for leaf in leaves)
                (on_error if failed and on_error is not None else callback)(self)

        for leaf in leaves:
            leaf.then(one_less)
        if not leaves:
            one_less()
        return self

    def iterate(self, timeout: float | None = None, propagate: bool = True, interval: float = 0.5) -> Iterator[Any]:
        """Each value as soon as it is there. Raises the error of a member that has one, unless propagate is False."""
        for _, meta in self.iter_native(timeout, interval):
            if propagate and meta["status"] in states.PROPAGATE_STATES:
                raise meta["result"]
            yield meta["result"]

    def iter_native(
        self, timeout: float | None = None, interval: float = 0.5, no_ack: bool = True, **_: Any
    ) -> Iterator[Any]:
        """(id, record) of each member as soon as it has ended. Raises TimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        left = self.leaves()
        pause_s = 0.01
        while left:
            self._read(left)
            ended = [leaf for leaf in left if leaf._cache is not None]
            for leaf in ended:
                assert leaf._cache is not None
                yield leaf.id, as_read(leaf._cache)
            left = [leaf for leaf in left if leaf._cache is None]
            if ended:
                pause_s = 0.01
            elif deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{len(left)} of {len(self.leaves())} tasks were not ready within {timeout} s")
            elif left:
                time.sleep(pause_s)
                pause_s = min(interval, pause_s * 2)

    # -- all of them

    @property
    def app(self) -> Any:
        """The app it was made by, else the current one."""
        return self._app if self._app is not None else apps[-1]()

    @property
    def backend(self) -> ResultBackend:
        """Where it is stored: the app's store, else its first member's."""
        leaves = self.leaves() if self._app is None else []
        found: ResultBackend = leaves[0]._backend if leaves else self.app.backend
        return found

    def forget(self) -> None:
        """Delete all records."""
        for result in self.results:
            result.forget()

    def revoke(self, connection: Any = None, terminate: bool = False, signal: str | None = None, **_: Any) -> None:
        """Have no worker run them; see AsyncResult.revoke."""
        leaves = self.leaves()
        if leaves:
            app = self._app if self._app is not None else leaves[0]._app or self.app
            app.control.revoke([leaf.id for leaf in leaves], terminate=terminate, signal=signal or "SIGTERM")

    @property
    def children(self) -> list[Any]:
        """The members."""
        return self.results

    @property
    def supports_native_join(self) -> bool:
        """Whether the stores are read for many at a time: always."""
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, place: int) -> Any:
        return self.results[place]

    def __len__(self) -> int:
        return len(self.results)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResultSet) and other.results == self.results

    def __hash__(self) -> int:
        return hash(tuple(self.results))

    def __reduce__(self) -> Any:
        return ResultSet, (self.results,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(result.id) for result in self.results)}]>"


class GroupResult(ResultSet):
    """The results of a group's members. parent: what came before the group."""

    #: The app of `app.GroupResult`.
    bound: Any = None

    def __init__(self, id: str | None = None, results: Iterable[Any] = (), parent: Any = None, app: Any = None) -> None:
        super().__init__(results, app if app is not None else self.bound)
        self.id = id
        self.parent = parent

    def as_tuple(self) -> Any:
        """Celery's form for storing it: ((id, parent), [members])."""
        parent = self.parent.as_tuple() if self.parent is not None else None
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def save(self, backend: ResultBackend | None = None) -> "GroupResult":
        """Keep it under its id; itself."""
        self._store(backend).save_group(str(self.id), self.as_tuple())
        return self

    def delete(self, backend: ResultBackend | None = None) -> None:
        """Forget that it was saved; the members' results stay."""
        self._store(backend).forget_group(str(self.id))

    @classmethod
    def restore(cls, id: str, backend: ResultBackend | None = None, app: Any = None) -> "GroupResult | None":
        """A group that was saved; None when there is none. Without `app` it is the current one; `app.GroupResult` knows its own."""
        app = app if app is not None else cls.bound if cls.bound is not None else apps[-1]()
        members = (backend if backend is not None else app.backend).fetch_group(id)
        return None if members is None else result_from_tuple(members, app)

    def _store(self, backend: ResultBackend | None) -> ResultBackend:
        return backend if backend is not None else self.backend

    def __reduce__(self) -> Any:
        return GroupResult, (self.id, self.results, self.parent)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and other.id == self.id and other.results == self.results

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} [{', '.join(str(result.id) for result in self.results)}]>"


#: The guide's name.
TaskSetResult = GroupResult


def result_from_tuple(
    r: Any, app: Any = None, backend: ResultBackend | None = None, guard: Callable[[], None] | None = None
) -> Any:
    """The handle that `as_tuple` wrote, a GroupResult for a group's; of an id alone, its handle."""
    if isinstance(r, AsyncResult | ResultSet):
        return r
    if isinstance(r, str):
        return AsyncResult(r, backend, app=app, guard=guard)
    head, members = r
    task_id, parent = head if isinstance(head, list | tuple) else (head, None)
    above = result_from_tuple(parent, app, backend, guard) if parent else None
    if members is not None:
        results = [result_from_tuple(member, app, backend, guard) for member in members]
        return GroupResult(task_id, results, above, app)
    return AsyncResult(task_id, backend, app=app, parent=above, guard=guard)


def _raise_first(leaves: "Iterable[AsyncResult[Any]]") -> None:
    """Raise the error of the first that is known to have ended with one."""
    for leaf in leaves:
        if leaf._cache is not None and leaf._cache.status in states.PROPAGATE_STATES and not leaf.ignored:
            leaf.get(0.0, disable_sync_subtasks=False)
