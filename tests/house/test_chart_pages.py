"""What the charts say of their values is what values.yaml says, in the schema and in README.md."""

import re
from pathlib import Path

import chart_pages
import pytest

each_chart = pytest.mark.parametrize("chart", [chart_pages.OPERATOR, chart_pages.WORKER], ids=lambda chart: chart.name)


@each_chart
def test_the_schema_describes_every_value_as_values_yaml_does(chart: Path) -> None:
    assert (chart / "values.schema.json").read_text() == chart_pages.schema(chart), (
        "run: make docs, or python tests/support/chart_pages.py"
    )


@each_chart
def test_the_readmes_table_is_that_of_the_values(chart: Path) -> None:
    page = (chart / "README.md").read_text()

    assert chart_pages.BEGIN in page
    assert page == chart_pages.readme(chart), "run: make docs, or python tests/support/chart_pages.py"


@each_chart
def test_the_readme_speaks_of_no_value_that_there_is_not(chart: Path) -> None:
    """Values in its prose are written as `group.name`; those of the other chart as `the chart: group.name` would not be found."""
    page = (chart / "README.md").read_text()
    prose = page.partition(chart_pages.BEGIN)[0] + page.partition(chart_pages.END)[2]
    known = set(re.findall(r"^\| `([A-Za-z.]+)` \|", page, re.MULTILINE))

    set_on_command_lines = set(re.findall(r"--set(?:-string)? '?([A-Za-z.]+)=", prose))

    assert known
    assert set_on_command_lines <= known
