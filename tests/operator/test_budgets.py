"""PodDisruptionBudgets: which pods they select, and which of them let nobody be evicted."""

import pytest

from celeriac_operator.cluster.budgets import Budget, blocks, budgets_of, selects

LABELS = {"app": "mails", "tier": "worker"}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        pytest.param({}, True, id="an empty one selects all"),
        pytest.param({"matchLabels": {"app": "mails"}}, True, id="a label"),
        pytest.param({"matchLabels": {"app": "mails", "x": "y"}}, False, id="a label that is missing"),
        pytest.param({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "mails"]}]}, True, id="in"),
        pytest.param(
            {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["mails"]}]}, False, id="not in"
        ),
        pytest.param({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["y"]}]}, True, id="absent"),
        pytest.param({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, True, id="exists"),
        pytest.param({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, False, id="does not exist"),
    ],
)
def test_what_a_selector_selects(selector: dict, expected: bool) -> None:
    assert selects(selector, LABELS) is expected


@pytest.mark.parametrize(
    ("version", "expected"), [("/apis/policy/v1", ["empty", "app"]), ("/apis/policy/v1beta1", ["app"])]
)
def test_an_empty_selector_selects_all_in_v1_and_nothing_before_and_none_selects_nothing(
    version: str, expected: list
) -> None:
    selectors = {"none": {}, "empty": {"selector": {}}, "app": {"selector": {"matchLabels": {"app": "mails"}}}}
    items = [{"metadata": {"name": name}, "spec": {"maxUnavailable": 0, **spec}} for name, spec in selectors.items()]
    assert [budget.name for budget in budgets_of(version, items)] == expected


@pytest.mark.parametrize(
    ("limit", "replicas", "blocked"),
    [
        pytest.param({"most": 0}, 3, True, id="maxUnavailable 0"),
        pytest.param({"most": "0%"}, 3, True, id="maxUnavailable 0%"),
        pytest.param({"most": "25%"}, 1, False, id="a quarter of one is one, rounded up"),
        pytest.param({"most": 1}, 1, False, id="maxUnavailable 1"),
        pytest.param({"least": 3}, 3, True, id="minAvailable as many as there are"),
        pytest.param({"least": 2}, 3, False, id="minAvailable fewer"),
        pytest.param({"least": "100%"}, 3, True, id="minAvailable 100%"),
        pytest.param({"least": "50%"}, 1, True, id="half of one is one, rounded up"),
        pytest.param({"least": 5}, 0, False, id="nobody to evict"),
        pytest.param({}, 3, False, id="no limit"),
    ],
)
def test_which_budgets_block_every_eviction(limit: dict, replicas: int, blocked: bool) -> None:
    assert bool(blocks(Budget(name="b", selector={}, **limit), replicas)) is blocked
