"""The real input and the work on it, without a task queue: the standard library's source files, read and counted.

The workers and the serial check call the same functions, so their totals must agree.
"""

import ast
import sysconfig
import threading
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(sysconfig.get_path("stdlib"))

#: Of a hundred files this many are refused once, and this many of those once more.
REFUSED_ONCE, REFUSED_TWICE = 12, 3

# CPython 3.11 counts how deep the parser's tree goes once a process and not once a thread: of two parses at the same time one may end
# with the SystemError "AST constructor recursion depth mismatch". The lock keeps ours apart; the one that `traceback` does for each
# exception that it formats, in a thread whose task is retried, knows no lock, so a parse that ends like that is done again.
_parsing = threading.Lock()
PARSES = 5

# Old test files hold escapes that the parser complains about; the complaint is about them and not about us.
warnings.filterwarnings("ignore", category=SyntaxWarning)
warnings.filterwarnings("ignore", category=DeprecationWarning, message="invalid (escape sequence|octal|decimal|hex)")


class StorageBusy(Exception):
    """The storage refused to read a file this time; it may answer the next time."""


class NotPython(Exception):
    """A file that this interpreter cannot parse: args are its path, the reason, and how often it had been retried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What one file holds."""

    functions: int = 0
    classes: int = 0
    lines: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            functions=self.functions + other.functions,
            classes=self.classes + other.classes,
            lines=self.lines + other.lines,
        )


def source_files() -> list[str]:
    """Paths of the standard library's Python files, relative to ROOT, in a fixed order; installed packages left out."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(path.as_posix() for path in found if not {"site-packages", "dist-packages"} & set(path.parts))


def folders(paths: Iterable[str]) -> dict[str, list[str]]:
    """Folder -> its files, not those of the folders below it."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(Path(path).parent.as_posix(), []).append(path)
    return groups


def refusals(path: str) -> int:
    """How often the storage refuses to read `path` before it gives in: 0, 1 or 2, always the same for one path."""
    draw = zlib.crc32(path.encode()) % 100
    return (draw < REFUSED_ONCE) + (draw < REFUSED_TWICE)


def read(path: str, *, attempt: int) -> bytes:
    """The file's bytes, from a storage that is sometimes busy: StorageBusy. attempt: 0 the first time."""
    if attempt < refusals(path):
        raise StorageBusy(f"{path}: the storage is busy (attempt {attempt})")
    return (ROOT / path).read_bytes()


def count(source: bytes, path: str) -> Counts:
    """Functions, classes and lines of one file. Raises SyntaxError or ValueError when it is not Python."""
    functions = classes = 0
    for node in ast.walk(_parsed(source, path)):
        functions += isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        classes += isinstance(node, ast.ClassDef)
    return Counts(functions=functions, classes=classes, lines=len(source.splitlines()))


def _parsed(source: bytes, path: str) -> ast.Module:
    with _parsing:
        for _ in range(PARSES - 1):
            try:
                return ast.parse(source, filename=path)
            except SystemError:
                continue
        return ast.parse(source, filename=path)


def size(paths: Iterable[str]) -> int:
    """Bytes of all these files together."""
    return sum((ROOT / path).stat().st_size for path in paths)
