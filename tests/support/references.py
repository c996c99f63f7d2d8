"""What a page of documentation names in the code, and whether it is there."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Where a path of a page may begin.
BASES = (
    ROOT / "worker" / "celeriac",
    ROOT / "operator" / "celeriac_operator",
    ROOT / "worker",
    ROOT / "operator",
    ROOT,
)

#: `path.py` or `path.py: function`, `path.py: Class.method`, as docs/architecture.md writes them.
REFERENCE = re.compile(r"`(?P<path>[\w./-]+\.(?:py|yaml|lua))(?:: (?P<names>[\w., /]+))?`")


def problems(text: str) -> list[str]:
    """What is wrong with the references in a text."""
    found = (_problems(match["path"], match["names"]) for match in REFERENCE.finditer(text))
    return [problem for several in found for problem in several]


def _problems(path: str, names: str | None) -> list[str]:
    """What is wrong with one reference. A path may be relative to a package or to the root of the tree."""
    file = next((base / path for base in BASES if (base / path).is_file()), None)
    if file is None:
        return [f"{path}: no such file"]
    if not names:
        return []
    known = definitions(file)
    return [f"{path}: no {name}" for name in re.split(r"[,/]\s*|\s+", names.strip()) if name and name not in known]


@cache
def definitions(file: Path) -> frozenset[str]:
    """Names of functions, classes, their methods and attributes, as `name` and `Class.name`; and of top-level assignments."""
    known: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        known |= _names(node)
        if isinstance(node, ast.ClassDef):
            members = {name for item in node.body for name in _names(item)}
            known |= members | {f"{node.name}.{member}" for member in members}
    return frozenset(known)


def _names(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return {node.name}
        case ast.Assign():
            return {target.id for target in node.targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case _:
            return set()
