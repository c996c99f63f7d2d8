"""docs/migrating-from-celery.md: what it says is there is, and what it says is not is not."""

import importlib
import re

import pytest
from click.testing import CliRunner
from references import ROOT

import celeriac
from celeriac import Celeriac
from celeriac.cli import main

PAGE = (ROOT / "docs" / "migrating-from-celery.md").read_text()
IMPORTS = re.findall(r"^\| [^|]+ \| `(celeriac[\w.]*)` \| (.+?) \|$", PAGE, re.MULTILINE)
[OF_THE_APP] = re.findall(r"^- Of the app: (.+?\.) ", PAGE, re.MULTILINE | re.DOTALL)
ABSENT = re.findall(r"`app\.(\w+)`", OF_THE_APP)


def test_the_page_has_its_tables() -> None:
    assert len(IMPORTS) > 10
    assert len(ABSENT) > 5


@pytest.mark.parametrize(("module", "names"), IMPORTS)
def test_what_is_to_be_imported_is_there(module: str, names: str) -> None:
    imported = importlib.import_module(module)

    missing = [
        name
        for name in re.findall(r"`(\w+)`", names)
        if not hasattr(imported, name) and importlib.util.find_spec(f"{module}.{name}") is None
    ]

    assert missing == []


def test_what_is_not_there_of_an_app_is_not() -> None:
    app = Celeriac("shop", broker="memory://", set_as_current=False)

    assert [name for name in ABSENT if hasattr(app, name)] == []
    assert celeriac.Celery is Celeriac


def test_the_commands_are_those_that_are_named() -> None:
    said = CliRunner().invoke(main, ["--help"]).output

    [same] = re.findall(r"^\| (`worker`, `beat`.+?) \|", PAGE, re.MULTILINE)
    [new] = re.findall(r"new: (.+?) \|", PAGE)
    [gone] = re.findall(r"^\| (`events`, `shell`.+?) \|", PAGE, re.MULTILINE)
    there = set(re.findall(r"^  ([a-z][a-z-]*)  ", said, re.MULTILINE))
    assert set(re.findall(r"`([\w-]+)`", same + new)) == there
    assert set(re.findall(r"`([\w-]+)`", gone)) & there == set()


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_flags_are_refused_as_the_page_says(command: str) -> None:
    [named] = re.findall(r"^\| (.+?) of a worker or a beat \| refused", PAGE, re.MULTILINE)
    refused = re.findall(r"`(--[\w-]+)`", named)
    assert len(refused) == 5

    for flag in refused:
        result = CliRunner().invoke(main, [command, flag, "x"])
        assert (result.exit_code, f"{flag}: " in result.output) == (2, True)


def test_flags_that_say_nothing_are_accepted_as_the_page_says() -> None:
    [named] = re.findall(r"with Celery's flags; (.+?) are accepted and say nothing", PAGE)
    flags = [word for flag in re.findall(r"`(-[^`]+)`", named) for word in flag.split()]
    assert len(flags) == 6

    result = CliRunner().invoke(main, ["worker", *_with_values(flags)])

    assert (result.exit_code, "name the app" in result.output) == (2, True)  # it got that far


def _with_values(flags: list[str]) -> list[str]:
    return [word for flag in flags for word in ([flag, "x"] if flag in {"-O", "-S"} else [flag])]
