"""docs/canvas.md runs as it is written."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "canvas.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
ROWS = re.findall(r"^\| [^`|]+ \| `(.+?)` \| `(.+?)` \|$", PAGE.replace("\\|", "¦"), re.MULTILINE)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "shop"}
    for block in BLOCKS:
        exec(block, names)
    return names


@pytest.mark.parametrize(("written", "value"), ROWS, ids=[row[0].replace("¦", "then") for row in ROWS])
def test_what_the_page_says_a_workflow_gives_it_gives(names: dict[str, Any], written: str, value: str) -> None:
    result = eval(written.replace("¦", "|"), names).apply()

    assert result.get() == ast.literal_eval(value)


def test_no_row_is_overlooked() -> None:
    assert len(ROWS) == 9


def test_the_chord_with_an_error_callback_runs(names: dict[str, Any]) -> None:
    assert names["checked"].apply().get() == 6
