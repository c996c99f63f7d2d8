"""The dashboards as files: JSON that Grafana takes, queries that parse, and a ConfigMap that its sidecar finds.

test_dashboard_queries.py runs the queries.
"""

import json
import re
from pathlib import Path

import promql_parser
import pytest
from charts import DASHBOARDS, OPERATOR, dashboard_queries, filled_in, objects, of_kind

VARIABLES = {"namespace": ".*", "pool": ".*", "queue": ".*"}

each_query = pytest.mark.parametrize(("panel", "expression"), list(dashboard_queries()))


@each_query
def test_a_query_parses(panel: str, expression: str) -> None:
    query = filled_in(expression, variables=VARIABLES, rate_interval="1m")

    assert "$" not in query.replace('"$1"', "")  # $1 is label_replace's
    promql_parser.parse(query)


@each_query
def test_a_query_asks_only_what_the_variables_select(panel: str, expression: str) -> None:
    for metric, selector in re.findall(r"(celeriac_\w+)(\{[^}]*\})?", expression):
        if metric in {"celeriac_broker_up", "celeriac_broker_probe_seconds_bucket", "celeriac_build_info"}:
            continue  # they have no pool
        assert 'namespace=~"$namespace",pool=~"$pool"' in selector, metric


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_panels_are_numbered_placed_and_explained(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]

    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(cells)) == len(cells)  # none lies over another
    assert max(x for x, _ in cells) < 24
    assert all(panel["description"] for panel in panels if panel["type"] != "row")
    assert all(
        target["datasource"]["uid"] == "${datasource}" for panel in panels for target in panel.get("targets", ())
    )


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_the_variables_are_a_data_source_and_what_to_look_at(path: Path) -> None:
    variables = {each["name"]: each for each in json.loads(path.read_text())["templating"]["list"]}

    assert list(variables) == ["datasource", "namespace", "pool", "queue"]
    assert variables["datasource"]["query"] == "prometheus"
    # Matches samples without the label too: a plain scrape config that does not name the pool still shows.
    assert {variables[name]["allValue"] for name in ("namespace", "pool", "queue")} == {".*"}


def test_each_dashboard_is_a_configmap_that_the_sidecar_finds() -> None:
    found = of_kind("ConfigMap", objects(OPERATOR))

    assert len(found) == len(DASHBOARDS) > 0
    for item, path in zip(found, DASHBOARDS, strict=True):
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(item["data"][path.name]) == json.loads(path.read_text())
