"""Documentation that is checked against the code, and what no file of ours may name."""

import ast
import os
import re
import subprocess
from pathlib import Path

import settings_page

ROOT = Path(__file__).resolve().parents[2]
#: Where a path of the architecture page may begin.
BASES = (
    ROOT / "worker" / "celeriac",
    ROOT / "operator" / "celeriac_operator",
    ROOT / "worker",
    ROOT / "operator",
    ROOT,
)

#: `path.py` or `path.py: function`, `path.py: Class.method`, as docs/architecture.md writes them.
REFERENCE = re.compile(r"`(?P<path>[\w./-]+\.(?:py|yaml|lua))(?:: (?P<names>[\w., /]+))?`")

#: In two halves, so that this file does not name them either.
HOSTS = ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "npm" + "js.com", "crates" + ".io")
HOSTS += ("ruby" + "gems.org", "proxy.go" + "lang.org", "deb.de" + "bian.org")
MACHINE = re.compile("/wo" + r"rk/(?:main|shared)|/op" + r"t/(?:py" + "pi|wheels)|/ro" + "ot/")


def our_files() -> list[Path]:
    """Every text file of the tree that git knows or would know."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    paths = (ROOT / name for name in listed.split("\0") if name)
    return [path for path in paths if path.is_file() and path.suffix not in {".png", ".gz", ".ico"}]


def test_the_architecture_page_names_only_what_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()

    references = [(match["path"], match["names"]) for match in REFERENCE.finditer(page)]

    assert references, "the page names no file at all: has its form changed?"
    assert [problem for path, names in references for problem in _problems(path, names)] == []


def _problems(path: str, names: str | None) -> list[str]:
    """What is wrong with one reference. A path may be relative to a package or to the root of the tree."""
    file = next((base / path for base in BASES if (base / path).is_file()), None)
    if file is None:
        return [f"{path}: no such file"]
    if not names:
        return []
    known = _definitions(file)
    return [f"{path}: no {name}" for name in re.split(r"[,/]\s*|\s+", names.strip()) if name and name not in known]


def _definitions(file: Path) -> set[str]:
    """Names of functions, classes and their methods, as `name` and `Class.name`; and of top-level assignments."""
    known: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            known.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
            known |= members | {f"{node.name}.{member}" for member in members}
        if isinstance(node, ast.Assign):
            known |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return known


def test_every_setting_is_documented_as_it_is() -> None:
    assert settings_page.PAGE.read_text() == settings_page.page(), "run: make docs"


def test_the_changelog_has_a_place_for_the_next_line() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()

    assert "## [Unreleased]" in changelog


def test_links_between_our_pages_lead_somewhere() -> None:
    pages = [path for path in our_files() if path.suffix == ".md"]

    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text())
        if not os.path.lexists(page.parent / target)
    ]

    assert broken == []


def test_no_file_names_a_package_registry_or_a_path_of_someones_machine() -> None:
    found = []
    for path in our_files():
        text = path.read_text(errors="replace")
        found += [f"{path.relative_to(ROOT)}: {host}" for host in HOSTS if host in text]
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in MACHINE.finditer(text)]

    assert found == []
