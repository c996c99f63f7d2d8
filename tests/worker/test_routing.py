"""Which queue a call goes to."""

import re
from typing import Any

import pytest

from celeriac.policy.routing import route


def by_tenant(name: str, args: Any, kwargs: Any, options: Any, **_: Any) -> Any:
    return {"queue": f"tenant-{kwargs['tenant']}"} if "tenant" in kwargs else None


@pytest.mark.parametrize(
    ("routes", "answer"),
    [
        pytest.param(None, {}, id="no routes"),
        pytest.param({}, {}, id="an empty mapping"),
        pytest.param({"shop.pay": {"queue": "money", "priority": 3}}, {"queue": "money", "priority": 3}, id="by name"),
        pytest.param({"shop.pay": "money"}, {"queue": "money"}, id="a queue's name alone"),
        pytest.param({"shop.*": "shop"}, {"queue": "shop"}, id="by glob"),
        pytest.param({"*": "any", "shop.pay": "money"}, {"queue": "money"}, id="the exact name before a glob"),
        pytest.param({"shop.*": "first", "*.pay": "second"}, {"queue": "first"}, id="the first glob"),
        pytest.param({re.compile(r"shop\.(pay|refund)"): "money"}, {"queue": "money"}, id="by regular expression"),
        pytest.param({"SHOP.*": "x"}, {}, id="names are case-sensitive"),
        pytest.param({"other.*": "x"}, {}, id="no match"),
        pytest.param([{"other": "x"}, {"shop.pay": "y"}, {"shop.*": "z"}], {"queue": "y"}, id="the first of several that answers"),
        pytest.param([("other.*", "x"), ("shop.*", {"queue": "y"})], {"queue": "y"}, id="pairs"),
        pytest.param(("shop.*", "y"), {"queue": "y"}, id="one pair"),
        pytest.param(by_tenant, {"queue": "tenant-7"}, id="a function"),
        pytest.param([lambda *_: None, by_tenant], {"queue": "tenant-7"}, id="a function that does not know"),
        pytest.param([lambda *_: "named", by_tenant], {"queue": "named"}, id="a function that names a queue"),
        pytest.param([None, {"shop.pay": "y"}], {"queue": "y"}, id="nothing among them"),
    ],
)  # fmt: skip
def test_a_call_goes_where_the_first_answer_says(routes: Any, answer: dict[str, Any]) -> None:
    assert route("shop.pay", routes, (1,), {"tenant": 7}, {}) == answer


def test_a_function_is_asked_with_the_whole_call() -> None:
    asked: list[Any] = []

    route("shop.pay", lambda *call: asked.append(call), (1,), {"a": 2}, {"priority": 3})

    assert asked == [("shop.pay", (1,), {"a": 2}, {"priority": 3})]
