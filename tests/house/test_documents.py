"""Documentation that is checked against the code, and what no file of ours may name."""

import os
import re
import subprocess
from pathlib import Path

import settings_page
from references import REFERENCE, ROOT, problems

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

    assert REFERENCE.search(page), "the page names no file at all: has its form changed?"
    assert problems(page) == []


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
