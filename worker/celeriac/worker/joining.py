"""Chords: members of a header are counted when they are settled, and whoever settles the last one sends the body.

Runs between storing and publishing, so that a body goes out together with the acknowledgement of the member that completed its chord.
A crash in between brings that member back, and it finds its claim again: the body is neither lost nor sent twice.

What will never run, since a call before it has failed, is stored as failed here too. A record that the store does not take is written
again with less in it; what it takes neither of is told by a dead letter.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from celeriac import states
from celeriac.app.base import Celeriac
from celeriac.app.context import Request
from celeriac.backends.base import ResultBackend
from celeriac.broker.codec import decode
from celeriac.broker.consumer import Delivery, payload
from celeriac.exceptions import BackendUnavailable, ChordError, DecodeError, EncodeError, MessageRefused
from celeriac.policy.workflow import Unrun, unrun, unrun_after
from celeriac.wire.chord import ChordPart, Dependency, Joined, collected
from celeriac.wire.message import TaskMessage, split_body
from celeriac.wire.result import ResultMeta, exception_from_wire, exception_to_wire
from celeriac.worker.executor import Done
from celeriac.worker.successors import body_of, errbacks_of, written

log = logging.getLogger(__name__)

#: A settlement in one of these states keeps what was to follow from running.
FALLEN = frozenset(["failed", "rejected", "revoked", "expired", "dead_lettered"])


class Ended(NamedTuple):
    """A job that is settled. part: its own part of a chord, encoded, when it has succeeded. state, error, traceback: as stored."""

    done: Done
    part: bytes | None
    state: str
    error: BaseException | None
    traceback: str | None


#: Characters of an error's own text in a chord's part: more is of no use in the words of the chord's error, and might be refused.
MOST_IN_PART = 10_000
#: Bytes that stores usually take: below, nothing is refused for its size.
LARGE_BYTES = 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Follows:
    """What joining has brought, by a job's identity.

    messages  to publish with it. joined: chords to close once these are published.
    later     refused by the store for now: nothing of it may be published or acknowledged, and it is to be joined again.
    untold    why the store takes no record of what will not run because of it, so that nobody who waits for that is told.
    """

    messages: dict[int, tuple[TaskMessage, ...]] = field(default_factory=dict)
    joined: dict[int, list[Joined]] = field(default_factory=dict)
    later: set[int] = field(default_factory=set)
    untold: dict[int, str] = field(default_factory=dict)


class _Part(NamedTuple):
    """A part and whose it is. body: what to send when it is the last one; None: read it from the message."""

    part: ChordPart
    ended: Ended
    body: Any


class Joiner:
    """Joins what was settled. accept: content types that may be read."""

    def __init__(self, app: Celeriac, backend: ResultBackend, accept: frozenset[str]) -> None:
        self._app, self._backend, self._accept = app, backend, accept

    def join(self, batch: Sequence[Ended]) -> Follows:
        """Count the members among them; what is to be published with whom.

        A member that failed brings down what was to follow from it: its chain, and with it the chords that these would have joined.
        Raises BackendUnavailable; then nothing is sent and all of it is tried again.
        """
        found = Follows()
        parts: list[_Part] = []
        for ended in batch:
            parts += self._parts(ended, found)
        while parts:
            owners = {(p.part.group_id, p.part.task_id): p for p in parts}
            complete = self._joined([p.part for p in parts])
            parts = []
            for joined in complete:
                owner = owners[joined.group_id, joined.task_id]
                more, fallen = self._body(joined, owner, found)
                key = id(owner.ended.done.job)
                found.joined.setdefault(key, []).append(joined)
                found.messages[key] = (*found.messages.get(key, ()), *more)
                parts += fallen
        return found

    def _joined(self, parts: Sequence[ChordPart]) -> list[Joined]:
        """As ResultBackend.join_chords; a member whose value the store does not take has failed for its chord. Raises BackendUnavailable."""
        try:
            return self._backend.join_chords(parts)
        except BackendUnavailable as error:
            if sum(len(part.payload) for part in parts) < LARGE_BYTES:
                raise
            self._backend.fetch("celeriac-joining")  # raises when it is an outage after all
            if len(parts) > 1:
                return [joined for part in parts for joined in self._joined([part])]
            [part] = parts
            log.error("the value of %s is too large for its chord, which fails: %s", part.task_id, error)
        why = EncodeError(
            f"{len(part.payload)} bytes are too large for the result store: return where the data is kept"
        )
        refused = self._backend.encode_part(part.task_id, states.FAILURE, exception_to_wire(why))
        return self._backend.join_chords([part._replace(payload=refused)])

    def _parts(self, ended: Ended, found: Follows) -> list[_Part]:
        headers = ended.done.job.delivery.headers
        if ended.part is not None:
            return [
                _Part(ChordPart(headers["group"], headers["id"], headers.get("group_index"), ended.part), ended, None)
            ]
        embed = self._embed(ended.done.job.delivery)
        parts = []
        error = exception_to_wire(ended.error) if ended.error is not None else None
        if embed.get("chord") and headers.get("group"):
            payload_ = self._backend.encode_part(headers["id"], ended.state, _brief(error))
            part = ChordPart(headers["group"], headers["id"], headers.get("group_index"), payload_)
            parts.append(_Part(part, ended, embed["chord"]))
        rest = embed.get("chain")
        if rest:
            parts += self._bring_down(unrun_after(rest), ended, ended.state, error, ended.traceback, found)
        return parts if id(ended.done.job) not in found.later else []

    def _bring_down(
        self, left: Unrun, ended: Ended, state: str, error: Any, traceback: str | None, found: Follows
    ) -> list[_Part]:
        """Store the error for calls that will not run; the parts of chords they leave behind."""
        if self._backend.keeps_results:
            self._tell(left.ids, ended, state, error, traceback, found)
        if id(ended.done.job) in found.later:
            return []
        brief = _brief(error)
        return [
            _Part(ChordPart(place.group_id, place.task_id, place.place, self._backend.encode_part(place.task_id, state, brief)), ended, place.body)
            for place in left.places
        ]  # fmt: skip

    def _tell(
        self, ids: Sequence[str], ended: Ended, state: str, error: Any, traceback: str | None, found: Follows
    ) -> None:
        """Store the error for these calls; a smaller one for those of which the store takes no such record."""
        key, cause = id(ended.done.job), ended.done.job.delivery.headers.get("id")
        refused = self._refused(ids, ended, state, error, traceback)
        too_much = [task_id for task_id, why in refused.items() if isinstance(why, EncodeError)]
        if too_much:
            why = refused[too_much[0]]
            log.warning("what follows %s will not run, and why is stored in few words: %s", cause, why)
            kind = error.get("exc_type") if isinstance(error, Mapping) else error
            words = EncodeError(
                f"{cause} failed with {kind!s:.200}; the result store does not take that error: {why!s:.500}"
            )
            others = {task_id: why for task_id, why in refused.items() if task_id not in too_much}
            refused = others | self._refused(too_much, ended, state, exception_to_wire(words), None)
        for task_id, why in refused.items():
            if isinstance(why, EncodeError):
                log.error(
                    "%s will not run, for %s has failed, and its record can never be stored: %s", task_id, cause, why
                )
                found.untold[key] = f"{task_id} will not run, and the result store takes no record of it: {why}"
            else:
                log.error(
                    "%s will not run, and that is refused for now; the message of %s is kept: %s", task_id, cause, why
                )
                found.later.add(key)

    def _refused(
        self, ids: Sequence[str], ended: Ended, state: str, error: Any, traceback: str | None
    ) -> dict[str, Exception]:
        """Write the error as these calls' records; those that the store refused, and why."""
        reply_to = ended.done.job.delivery.reply_to
        records = [(ResultMeta(task_id, state, error, traceback, reply_to=reply_to), None) for task_id in ids]
        answers = zip(ids, self._backend.store(records), strict=True)
        return {task_id: why for task_id, why in answers if why is not None}

    def _body(self, joined: Joined, owner: _Part, found: Follows) -> tuple[list[TaskMessage], list[_Part]]:
        """The messages of a chord that is complete: its body; or, when a member failed, the error callbacks, and the parts that fail with it."""
        ended = owner.ended
        request = self._request(ended.done)
        body = owner.body if owner.body is not None else request.chord
        values = collected(joined)
        if isinstance(ended.error, MessageRefused):  # it was sent, and the broker never takes it
            cause = ChordError(f"Callback error: {ended.error!r}")
        elif not isinstance(values, Dependency):
            try:
                plan = body_of(self._app, body, values, request)
                messages = list(map(written, plan.messages))
                if plan.chords:
                    self._backend.open_chords(plan.chords)
                return messages, []
            except BackendUnavailable:
                raise
            except Exception as error:
                log.exception("the body of chord %s cannot be sent", joined.group_id)
                cause = ChordError(f"Callback error: {error!r}")
        else:
            cause = ChordError(f"Dependency {values.task_id} raised {_shown(values.error)}")
        left = unrun(body)
        record = exception_to_wire(cause)
        fallen = self._bring_down(left, ended, states.FAILURE, record, None, found)
        if id(ended.done.job) in found.later:
            return [], []
        body_id = left.ids[-1] if left.ids else ""
        try:
            plan = errbacks_of(self._app, body, body_id, cause, request)
            if plan.chords:
                self._backend.open_chords(plan.chords)
        except BackendUnavailable:
            raise
        except Exception:
            log.exception("the error callbacks of chord %s cannot be called; it failed all the same", joined.group_id)
            return [], fallen
        return plan.messages, fallen

    def _request(self, done: Done) -> Request:
        delivery = done.job.delivery
        return Request(done.job.task, delivery.headers, embed=self._embed(delivery), properties=delivery.properties)

    def _embed(self, delivery: Delivery) -> Mapping[str, Any]:
        try:
            compression = delivery.headers.get("compression")
            body = decode(
                payload(delivery), delivery.content_type, delivery.content_encoding, self._accept, compression
            )
            return split_body(body)[2]
        except (DecodeError, ValueError, TypeError):  # told when it was to run: nobody can say what should follow it
            return {}


def _brief(error: Any) -> Any:
    """The error as stored, its long texts cut."""
    message = error.get("exc_message") if isinstance(error, Mapping) else None
    if not isinstance(message, list | tuple):
        return error
    texts = [part if len(shown := str(part)) <= MOST_IN_PART else f"{shown[:MOST_IN_PART]}…" for part in message]
    return {**error, "exc_message": texts}


def _shown(error: Any) -> str:
    return repr(exception_from_wire(error, sys.modules))
