"""The alerts: promtool runs their cases, each one has a case, and the chart renders those that are wanted."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from charts import OPERATOR, RULES, objects, the

CASES = Path(__file__).with_name("rules.yaml")
DOCS = Path(__file__).parents[2] / "docs"
ALERTS = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}


@pytest.mark.parametrize(("command", "path"), [("check", RULES), ("test", CASES)], ids=["check", "test"])
def test_promtool_is_content_with_the_rules(promtool: str, command: str, path: Path) -> None:
    done = subprocess.run([promtool, command, "rules", path], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    fired = {
        re.search(r'alertname="(\w+)"', sample["labels"])[1]  # type: ignore[index]
        for case in yaml.safe_load(CASES.read_text())["tests"]
        for query in case["promql_expr_test"]
        for sample in query["exp_samples"]
    }

    assert fired == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_is_wrong_and_how_urgent_it_is(alert: str) -> None:
    rule = ALERTS[alert]

    assert rule["labels"]["severity"] in {"page", "ticket", "info"}
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["description"]


@pytest.mark.parametrize("alert", ALERTS)
def test_no_alert_adds_the_fleets_totals_to_the_workers_own(alert: str) -> None:
    own = re.findall(r"celeriac_tasks?_\w*", ALERTS[alert]["expr"])
    fleets = re.findall(r"celeriac_fleet_\w*", ALERTS[alert]["expr"])

    assert not (own and fleets)


def test_the_chart_leaves_out_alters_and_documents_alerts_as_its_values_say() -> None:
    options = {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "disabled": ["CeleriacRetryStorm"],
        "overrides": {"CeleriacPoolAtMax": {"for": "2h", "labels": {"severity": "info"}}},
        "runbookBaseUrl": "https://runbooks.example/celeriac/",
    }

    rule = the("PrometheusRule", objects(OPERATOR, {"prometheusRule": options}))
    rendered = {item["alert"]: item for item in rule["spec"]["groups"][0]["rules"]}

    assert set(rendered) == set(ALERTS) - {"CeleriacRetryStorm"}
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rendered["CeleriacPoolAtMax"]["for"] == "2h"
    assert rendered["CeleriacPoolAtMax"]["labels"] == {"severity": "info"}
    assert rendered["CeleriacPoolAtMax"]["expr"] == ALERTS["CeleriacPoolAtMax"]["expr"]
    assert rendered["CeleriacBrokerUnreachable"]["annotations"] == {
        **ALERTS["CeleriacBrokerUnreachable"]["annotations"],
        "runbook_url": "https://runbooks.example/celeriac/CeleriacBrokerUnreachable",
    }


def test_every_alert_has_a_paragraph_of_what_to_do_at_the_place_that_its_runbook_url_names() -> None:
    headings = re.findall(r"^## (\w+)$", (DOCS / "alerts.md").read_text(), re.MULTILINE)

    assert headings == list(ALERTS)


def test_a_runbook_url_that_ends_with_a_hash_leads_to_a_heading_of_the_page() -> None:
    values = {"prometheusRule": {"enabled": True, "runbookBaseUrl": "https://docs.example/alerts.md#"}}

    rule = the("PrometheusRule", objects(OPERATOR, values))["spec"]["groups"][0]["rules"][0]

    assert rule["annotations"]["runbook_url"] == "https://docs.example/alerts.md#" + rule["alert"].lower()
