"""docs/guide-coverage.md: a row for each item of the tasks guide, and what it names is there."""

import re
from pathlib import Path

import pytest
from references import REFERENCE, ROOT, definitions, problems

from celeriac.config.names import setting_of

PAGE = (ROOT / "docs" / "guide-coverage.md").read_text()
ROWS = {
    int(number): (what, where, held)
    for number, what, where, held in re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
}
SETTINGS = re.findall(r"^\| `([A-Z_]+)` \| `(\w+)` \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)

#: How many items the guide has, and those whose result stores come later.
ITEMS = 156
PLANNED = {101, 102, 105, 106}
#: Item 131 is a misprint in the guide.
NOTHING_TO_BUILD = {131}
#: The settings that the guide's text names.
NAMED = {
    "CELERY_DEFAULT_RATE_LIMIT", "CELERY_SEND_TASK_ERROR_EMAILS", "CELERY_TASK_SERIALIZER", "CELERY_RESULT_BACKEND", "CELERY_ACKS_LATE",
    "CELERY_TRACK_STARTED", "CELERY_QUEUES", "CELERY_AMQP_TASK_RESULT_EXPIRES", "CELERY_IMPORTS", "CELERY_IGNORE_RESULT",
    "CELERY_DISABLE_RATE_LIMITS",
}  # fmt: skip


def missing_tests(held: str) -> list[str]:
    """What is wrong with the tests that a row names."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", held)
    if not named or "".join(f"`{path}::{name}`" for path, name in named) != held.replace("<br>", ""):
        return [f"not a list of tests: {held}"]
    files = [(ROOT / path, name) for path, name in named]
    return [f"{path}::{name}" for path, name in files if not path.is_file() or name not in definitions(path)]


def test_each_item_has_its_row_and_no_row_is_there_twice() -> None:
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)]

    assert numbers == list(range(1, ITEMS + 1))
    assert sorted(ROWS) == numbers, "a row has not four cells"


@pytest.mark.parametrize("number", sorted(ROWS))
def test_what_a_row_names_is_there(number: int) -> None:
    what, where, held = ROWS[number]

    assert what
    assert problems(where) == []
    assert all((ROOT / "docs" / page).is_file() for page in re.findall(r"\]\(([\w-]+\.md)", where))
    assert REFERENCE.search(where) or "](" in where or "`config/" in where or number in NOTHING_TO_BUILD, where
    assert missing_tests(held) == []
    assert "planned" not in where or number in PLANNED


def test_each_setting_of_the_guide_has_its_row() -> None:
    assert {old for old, *_ in SETTINGS} >= NAMED
    assert len({old for old, *_ in SETTINGS}) == len(SETTINGS)


@pytest.mark.parametrize(("old", "new", "where", "held"), SETTINGS, ids=[old for old, *_ in SETTINGS])
def test_a_setting_of_the_guide_means_todays(old: str, new: str, where: str, held: str) -> None:
    setting = setting_of(old)

    assert setting is not None
    assert setting.name == new
    assert problems(where) == []
    assert missing_tests(held) == []
    assert ("table.py" in where) == (f'_S("{new}"' in Path(ROOT, "worker/celeriac/config/table.py").read_text())
