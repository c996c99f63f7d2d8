"""Chords: members of a header are counted when they are settled, and whoever settles the last one sends the body.

Runs between storing and publishing, so that a body goes out together with the acknowledgement of the member that completed its chord.
A crash in between brings that member back, and it finds its claim again: the body is neither lost nor sent twice.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from celeriac import states
from celeriac.app.base import Celeriac
from celeriac.app.context import Request
from celeriac.backends.base import ResultBackend
from celeriac.broker.codec import decode
from celeriac.broker.consumer import Delivery, payload
from celeriac.exceptions import BackendUnavailable, ChordError, DecodeError, MessageRefused
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


class Follows(NamedTuple):
    """What joining has brought, by a job's identity: messages to publish with it; chords to close once these are published."""

    messages: Mapping[int, tuple[TaskMessage, ...]]
    joined: Mapping[int, Sequence[Joined]]


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
        messages: dict[int, tuple[TaskMessage, ...]] = {}
        closing: dict[int, list[Joined]] = {}
        parts: list[_Part] = []
        for ended in batch:
            parts += self._parts(ended)
        while parts:
            owners = {(p.part.group_id, p.part.task_id): p for p in parts}
            complete = self._backend.join_chords([p.part for p in parts])
            parts = []
            for joined in complete:
                owner = owners[joined.group_id, joined.task_id]
                more, fallen = self._body(joined, owner)
                key = id(owner.ended.done.job)
                closing.setdefault(key, []).append(joined)
                messages[key] = (*messages.get(key, ()), *more)
                parts += fallen
        return Follows(messages, closing)

    def _parts(self, ended: Ended) -> list[_Part]:
        headers = ended.done.job.delivery.headers
        if ended.part is not None:
            return [
                _Part(ChordPart(headers["group"], headers["id"], headers.get("group_index"), ended.part), ended, None)
            ]
        embed = self._embed(ended.done.job.delivery)
        parts = []
        error = exception_to_wire(ended.error) if ended.error is not None else None
        if embed.get("chord") and headers.get("group"):
            payload_ = self._backend.encode_part(headers["id"], ended.state, error)
            part = ChordPart(headers["group"], headers["id"], headers.get("group_index"), payload_)
            parts.append(_Part(part, ended, embed["chord"]))
        rest = embed.get("chain")
        if rest:
            parts += self._bring_down(unrun_after(rest), ended, ended.state, error, ended.traceback)
        return parts

    def _bring_down(self, left: Unrun, ended: Ended, state: str, error: Any, traceback: str | None) -> list[_Part]:
        """Store the error for calls that will not run; the parts of chords they leave behind."""
        if self._backend.keeps_results:
            reply_to = ended.done.job.delivery.reply_to
            records = [(ResultMeta(task_id, state, error, traceback, reply_to=reply_to), None) for task_id in left.ids]
            for refused in filter(None, self._backend.store(records)):
                log.error(
                    "what follows %s will not run, and that cannot be stored: %s",
                    ended.done.job.delivery.headers.get("id"),
                    refused,
                )
        return [
            _Part(ChordPart(place.group_id, place.task_id, place.place, self._backend.encode_part(place.task_id, state, error)), ended, place.body)
            for place in left.places
        ]  # fmt: skip

    def _body(self, joined: Joined, owner: _Part) -> tuple[list[TaskMessage], list[_Part]]:
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
        fallen = self._bring_down(left, ended, states.FAILURE, record, None)
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


def _shown(error: Any) -> str:
    return repr(exception_from_wire(error, sys.modules))
