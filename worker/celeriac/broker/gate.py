"""Where commands to a worker are let in or passed over, counted, and told of."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from celeriac.broker.codec import SIGNED as SIGNED_CONTENT
from celeriac.policy.commands import AGE_S, REASONS, Refusal, outdated, unsigned
from celeriac.wire.control import COMMANDS, PLAIN, sent_from_wire

log = logging.getLogger(__name__)

#: Kinds of refused commands that are told of, each once: anybody may make up more.
MOST_TOLD = 100

_KNOWN = frozenset(name for info in COMMANDS for name in (info.name, *info.aliases))


class Gate:
    """Which commands pass. heeds: as a heartbeat tells it (`celeriac.wire.control.PLAIN`, SIGNED, EITHER). For one thread."""

    def __init__(self, heeds: str) -> None:
        self._heeds = heeds
        self._began_at = time.time()
        #: Those that passed: id -> when they were sent.
        self._seen: dict[str, float] = {}
        self._told: set[tuple[str, str]] = set()
        #: How many were refused, by reason.
        self.refused = dict.fromkeys(REASONS, 0)

    def passes(self, body: Mapping[str, Any], content_type: str) -> bool:
        """Whether this worker heeds a command that was sent to it, and can be read."""
        if self._heeds == PLAIN:
            return True
        method, now = body.get("method"), time.time()
        name = method if isinstance(method, str) and method in _KNOWN else "of an unknown name"
        if content_type != SIGNED_CONTENT:
            refusal = unsigned(name, heeds=self._heeds)
        else:
            try:
                sent = sent_from_wire(body)
            except ValueError as error:
                refusal = Refusal("outdated", f"was passed over: {error}")
            else:
                refusal = outdated(name, sent, began_at=self._began_at, seen=self._seen, now=now)
                if refusal is None and sent is not None:
                    # What is older than this is refused for its age.
                    self._seen = {known: at for known, at in self._seen.items() if now - at <= AGE_S}
                    self._seen[sent.id] = sent.at
        if refusal is not None:
            self._refuse(refusal.reason, name, f"the command {name} {refusal.says}")
        return refusal is None

    def undecodable(self, error: Exception, content_type: str) -> None:
        """A message came that cannot be read: for whom it was is not known."""
        if content_type != SIGNED_CONTENT:
            self._refuse("undecodable", content_type, f"a command cannot be decoded: {error}")
        elif self._heeds == PLAIN:
            text = "signed commands are sent over this broker; this worker's app has not called setup_security(), and reads plain ones only"
            self._tell(logging.INFO, ("", "signed"), text)
        else:
            self._refuse("untrusted", str(error), f"a command is not trusted: {error}")

    def _refuse(self, reason: str, kind: str, text: str) -> None:
        self.refused[reason] += 1
        self._tell(logging.ERROR, (reason, kind), text)

    def _tell(self, level: int, kind: tuple[str, str], text: str) -> None:
        """Once for each kind. They are counted each time."""
        if kind in self._told or len(self._told) > MOST_TOLD:
            return
        self._told.add(kind)
        if len(self._told) > MOST_TOLD:
            text = f"commands of more than {MOST_TOLD} kinds were passed over: from now on they are counted only (celeriac_commands_refused)"
        log.log(level, "remote control: %s", text)
