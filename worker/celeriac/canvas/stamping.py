"""Stamps: headers of one's own that go with every call of a workflow, and by which calls can be found and revoked.

A visitor is asked at each signature which stamps it gets; without one all get the same. Names and calls are Celery's.
"""

from collections.abc import Mapping
from typing import Any

from celeriac.canvas.forms import chain, chord, group
from celeriac.canvas.signature import Signature, listed, maybe_signature


class StampingVisitor:
    """Override what is needed. Each method gets a signature and the stamps so far, and returns stamps to add."""

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        """Stamps of one call."""
        return {}

    def on_group_start(self, group: Any, **headers: Any) -> dict[str, Any]:
        """Stamps of all within a group."""
        return {}

    def on_group_end(self, group: Any, **headers: Any) -> None:
        """The group's members have their stamps."""

    def on_chain_start(self, chain: Any, **headers: Any) -> dict[str, Any]:
        """Stamps of all steps of a chain."""
        return {}

    def on_chain_end(self, chain: Any, **headers: Any) -> None:
        """The chain's steps have their stamps."""

    def on_chord_header_start(self, chord: Any, **header: Any) -> dict[str, Any]:
        """Stamps of all in a chord's header: those of its group."""
        return self.on_group_start(chord.header, **header)

    def on_chord_header_end(self, chord: Any, **header: Any) -> None:
        """The header's members have their stamps."""
        self.on_group_end(chord.header, **header)

    def on_chord_body(self, sig: Any, **header: Any) -> dict[str, Any]:
        """Stamps of a chord's body."""
        return {}

    def on_callback(self, callback: Any, **header: Any) -> dict[str, Any]:
        """Stamps of a callback."""
        return {}

    def on_errback(self, errback: Any, **header: Any) -> dict[str, Any]:
        """Stamps of an error callback."""
        return {}


class GroupStampingVisitor(StampingVisitor):
    """Stamps each call with the ids of the groups it is in: `groups`."""

    stamped_headers = ("groups",)

    def __init__(self, groups: Any = (), stamped_headers: Any = None) -> None:
        self.groups = list(groups)

    def on_group_start(self, group: Any, **headers: Any) -> dict[str, Any]:
        if group.id is None:
            group.freeze()
        if group.id not in self.groups:
            self.groups.append(group.id)
        return {"groups": list(self.groups), "stamped_headers": ["groups"]}

    def on_group_end(self, group: Any, **headers: Any) -> None:
        self.groups.pop()

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"groups": list(self.groups), "stamped_headers": ["groups"]}


def stamp(sig: Signature, visitor: Any, headers: Mapping[str, Any], *, append: bool = False) -> None:
    """Stamp a signature, what is in it and what is linked to it. append: two values of one stamp become a list; else the later one stays."""
    match sig:
        case chain():
            here = _with(headers, visitor.on_chain_start(sig, **headers) if visitor else None, append)
            _stamp_links(sig, visitor, here, append)
            for step in sig.tasks:
                stamp(step, visitor, here, append=append)
            if visitor:
                visitor.on_chain_end(sig, **here)
        case group():
            here = _with(headers, visitor.on_group_start(sig, **headers) if visitor else None, append)
            _stamp_links(sig, visitor, here, append)
            for member in sig.tasks:
                stamp(member, visitor, here, append=append)
            if visitor:
                visitor.on_group_end(sig, **here)
        case chord():
            here = _with(headers, visitor.on_chord_header_start(sig, **headers) if visitor else None, append)
            for member in sig.tasks:
                stamp(member, visitor, here, append=append)
            if visitor:
                visitor.on_chord_header_end(sig, **here)
            if sig.body is not None:
                of_body = _with(headers, visitor.on_chord_body(sig, **headers) if visitor else None, append)
                stamp(sig.body, visitor, of_body, append=append)
        case _:
            _stamp_links(sig, visitor, headers, append)
            own = {
                name: sig["options"][name]
                for name in sig["options"].get("stamped_headers") or ()
                if name in sig["options"]
            }
            merged = _with(headers, visitor.on_signature(sig, **headers) if visitor else None, append)
            sig.set(**_with(own, merged, append))


def _stamp_links(sig: Signature, visitor: Any, headers: Mapping[str, Any], append: bool) -> None:
    for option, ask in (("link", "on_callback"), ("link_error", "on_errback")):
        callbacks = [maybe_signature(one, sig._app) for one in listed(sig["options"].get(option))]
        if not callbacks:
            continue
        for callback in callbacks:
            added = getattr(visitor, ask)(callback, **headers) if visitor else None
            stamp(callback, visitor, _with(headers, added, append), append=append)
        sig["options"][option] = callbacks


def _with(headers: Mapping[str, Any], added: Mapping[str, Any] | None, append: bool) -> dict[str, Any]:
    """Both, and the names of all that are stamps: those that `stamped_headers` lists, all when it is not there."""
    names: list[str] = []
    merged: dict[str, Any] = {}
    for some in (headers, added or {}):
        listed_names = some.get("stamped_headers")
        for name in some if listed_names is None else listed_names:
            if name != "stamped_headers" and name not in names:
                names.append(name)
        for name, value in some.items():
            if name == "stamped_headers":
                continue
            if append and name in merged and merged[name] != value:
                before = listed(merged[name])
                merged[name] = before + [one for one in listed(value) if one not in before]
            else:
                merged[name] = value
    return {**merged, "stamped_headers": names}
