"""Canvas: calls as values that can be combined, kept, sent, and sent on by workers. Names and forms are Celery's."""

from celeriac.canvas.forms import chain, chord, chunks, group, xmap, xstarmap
from celeriac.canvas.signature import Signature, maybe_signature, signature, subtask
from celeriac.canvas.stamping import GroupStampingVisitor, StampingVisitor

#: Celery's names of the classes behind its functions.
_chain, _chord = chain, chord

__all__ = [
    "GroupStampingVisitor",
    "Signature",
    "StampingVisitor",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]
