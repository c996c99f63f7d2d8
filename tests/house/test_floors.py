"""Who may import whom, and what the pure packages may not say: DESIGN.md 3 as pyproject.toml writes it down."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PURE = (
    "worker/celeriac/wire",
    "worker/celeriac/policy",
    "operator/celeriac_operator/resources",
    "operator/celeriac_operator/scaling",
)


def test_every_import_contract_is_kept() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr


def test_operator_is_a_folder_and_not_a_package() -> None:
    """As a package it would shadow the standard library's `operator`, and Python would not start in this folder."""
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_no_folder_of_tests_is_a_package() -> None:
    """Two test files of the same name may stand in two folders (pytest's importlib mode)."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("package", PURE)
def test_a_pure_package_never_asks_for_the_time(package: str) -> None:
    """Import contracts forbid `time`; `datetime` must stay allowed, so its clock is looked for by name."""
    asks = re.compile(r"\.(now|today|utcnow)\(")

    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if asks.search(line)
    ]

    assert found == []
