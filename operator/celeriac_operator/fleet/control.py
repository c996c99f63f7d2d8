"""Drain, undrain and shutdown commands to workers, over the broker's remote control: level-based, said again at every tick.

A mark expires by itself in a worker that hears no more of it, so an operator that vanishes leaves no worker drained
for ever.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from celeriac.exceptions import BrokerUnavailable
from celeriac.wire import control
from celeriac_operator.errors import CannotSign
from celeriac_operator.fleet.heartbeats import Worker
from celeriac_operator.fleet.signature import Signature

#: Seconds a mark holds without being repeated. Committing a scale-in needs 20 s or more of it left.
MARK_TTL_S = 60.0


class Post(Protocol):
    """What sends a command: `celeriac.broker.mailbox.Mailbox`, or a test's list."""

    def send(self, command: control.Command, *, signed: bool = False) -> None: ...

    def close(self) -> None: ...


class Telling(Protocol):
    """What tells workers: `Commands`, or a test's list. `send` raises CannotSign once it has told those that it could."""

    def send(self, command: control.Command) -> None: ...


class Commands:
    """Sends each command as its workers take it: signed to those that demand that, plain to the others. For one thread.

    Once the broker has not taken one, the others of that tick are not tried.
    """

    def __init__(self, post: Post, signature: Signature) -> None:
        self._post, self.signature = post, signature
        self._heeds: Mapping[str, str] = {}
        self._away = ""  # why the broker took none at this tick

    def know(self, workers: Iterable[Worker]) -> None:
        """A tick begins. These are alive, and their heartbeats say what they heed."""
        self._heeds = {worker.beat.hostname: worker.beat.commands for worker in workers if not worker.gone}
        self._away = ""

    def send(self, command: control.Command) -> None:
        """Send it to every worker that it names. Raises CannotSign for those that were left out; BrokerUnavailable."""
        if self._away:
            raise BrokerUnavailable(self._away)
        try:
            self._send(command)
        except BrokerUnavailable as error:
            self._away = str(error)
            raise

    def _send(self, command: control.Command) -> None:
        lack = self.signature.lack()
        routes = routed(command.destination, self._heeds, signs=lack is None)
        if routes.plain is None:
            self._post.send(command)
        elif routes.plain:
            self._post.send(replace(command, destination=[*routes.plain]))
        if routes.signed:
            self._post.send(replace(command, destination=[*routes.signed]), signed=True)
        if lack is not None and routes.left_out:
            raise CannotSign(
                f"{', '.join(routes.left_out[:3])}{', …' if len(routes.left_out) > 3 else ''} demand signed commands, and the operator {lack.says}",
                nodes=routes.left_out,
            )


class Routes(NamedTuple):
    """Who gets a command in which form. plain None: all who listen. left_out: they demand a signature, and there is none."""

    plain: tuple[str, ...] | None
    signed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def routed(destination: Collection[str] | None, heeds: Mapping[str, str], *, signs: bool) -> Routes:
    """In which form each of these nodes (None: all) takes a command. heeds: node -> what its heartbeat says.

    As long as nobody wants a signature, all are told at once. Else each is named: who reads plain commands only cannot
    read a signed one, and the others would take a plain one for a stranger's.
    """
    if destination is None and not any(heeds.values()):
        return Routes(None)
    plain: list[str] = []
    signed: list[str] = []
    left_out: list[str] = []
    for node in sorted(heeds if destination is None else destination):
        taken = heeds.get(node, control.PLAIN)
        if taken == control.PLAIN or (taken == control.EITHER and not signs):
            plain.append(node)
        else:
            (signed if signs else left_out).append(node)
    return Routes(tuple(plain), tuple(signed), tuple(left_out))


def keep_drained(post: Telling, *, mark: str, nodes: Sequence[str], epoch: int) -> None:
    """Tell these workers to drain, or to stay drained, under `mark`. epoch: see `celeriac.wire.control.drain`."""
    if nodes:
        post.send(control.drain(mark=mark, epoch=epoch, ttl_s=MARK_TTL_S, destination=sorted(nodes)))


def lift_drain(post: Telling, *, nodes: Sequence[str], epoch: int) -> None:
    """Tell these workers to claim again."""
    if nodes:
        post.send(control.undrain(epoch=epoch, destination=sorted(nodes)))


def end(post: Telling, *, nodes: Sequence[str], epoch: int) -> None:
    """Tell these workers to end as at a SIGTERM: what outlasts their grace goes back to its queue."""
    if nodes:
        post.send(control.shutdown(epoch=epoch, destination=sorted(nodes)))
