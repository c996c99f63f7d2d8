"""Signatures of the tasks of canvases.py by their names, for a client that does not have them."""

from dataclasses import dataclass
from typing import Any

from celeriac import Celeriac
from celeriac.canvas import Signature


@dataclass(frozen=True, slots=True)
class Names:
    app: Celeriac

    def s(self, name: str, *args: Any, **options: Any) -> Signature:
        return Signature(f"canvases.{name}", args, None, options, app=self.app)

    def si(self, name: str, *args: Any) -> Signature:
        return Signature(f"canvases.{name}", args, immutable=True, app=self.app)
