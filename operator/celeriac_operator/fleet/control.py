"""Drain, undrain and shutdown commands to workers, over the broker's remote control: level-based, said again at every tick.

A mark expires by itself in a worker that hears no more of it, so an operator that vanishes leaves no worker drained
for ever.
"""

from collections.abc import Sequence
from typing import Protocol

from celeriac.wire import control

#: Seconds a mark holds without being repeated. Committing a scale-in needs 20 s or more of it left.
MARK_TTL_S = 60.0


class Post(Protocol):
    """What sends a command: `celeriac.broker.mailbox.Mailbox`, or a test's list."""

    def send(self, command: control.Command) -> None: ...

    def close(self) -> None: ...


def keep_drained(post: Post, *, mark: str, nodes: Sequence[str], epoch: int) -> None:
    """Tell these workers to drain, or to stay drained, under `mark`. epoch: see `celeriac.wire.control.drain`."""
    if nodes:
        post.send(control.drain(mark=mark, epoch=epoch, ttl_s=MARK_TTL_S, destination=sorted(nodes)))


def lift_drain(post: Post, *, nodes: Sequence[str], epoch: int) -> None:
    """Tell these workers to claim again."""
    if nodes:
        post.send(control.undrain(epoch=epoch, destination=sorted(nodes)))


def end(post: Post, *, nodes: Sequence[str], epoch: int) -> None:
    """Tell these workers to end as at a SIGTERM: what outlasts their grace goes back to its queue."""
    if nodes:
        post.send(control.shutdown(epoch=epoch, destination=sorted(nodes)))
