"""Which queue a call goes to."""

import re
from typing import Any

import pytest

from celeriac.policy.routing import prepared, route


def by_tenant(name: str, args: Any, kwargs: Any, options: Any, **_: Any) -> Any:
    return {"queue": f"tenant-{kwargs['tenant']}"} if "tenant" in kwargs else None


class OfOld:
    """A router of before Celery 4."""

    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> Any:
        return {"queue": f"old-{args[0]}"} if task == "shop.pay" else None


def with_task(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
    return {"queue": f"of-{task}"}


#: What dotted paths name.
LOADED: dict[str, Any] = {
    "proj.by_tenant": by_tenant, "proj.OfOld": OfOld, "proj.TABLE": {"shop.*": "table"}, "proj.text": "proj.by_tenant", "proj.seven": 7,
}  # fmt: skip


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
        pytest.param(with_task, {"queue": "of-None"}, id="a function that wants the task"),
        pytest.param(lambda name, args, kwargs: f"{name}!", {"queue": "shop.pay!"}, id="a function that wants no options"),
        pytest.param(OfOld, {"queue": "old-1"}, id="a class"),
        pytest.param(OfOld(), {"queue": "old-1"}, id="an object"),
        pytest.param("proj.by_tenant", {"queue": "tenant-7"}, id="a dotted path"),
        pytest.param(("proj.OfOld", "proj.by_tenant"), {"queue": "old-1"}, id="two dotted paths"),
        pytest.param(["proj.TABLE"], {"queue": "table"}, id="a dotted path of a mapping"),
        pytest.param([[("shop.*", {"queue": "y", "compression": "gzip"})]], {"queue": "y", "compression": "gzip"}, id="pairs in a list of their own"),
        pytest.param([(re.compile("shop"), "y")], {"queue": "y"}, id="a pair with a regular expression"),
        pytest.param(("shop.*", "q.with.dots"), {"queue": "q.with.dots"}, id="one pair whose queue has dots"),
        pytest.param({"shop.pa?": "one letter"}, {"queue": "one letter"}, id="a glob of one letter"),
        pytest.param([None, {"shop.pay": "y"}], {"queue": "y"}, id="nothing among them"),
    ],
)  # fmt: skip
def test_a_call_goes_where_the_first_answer_says(routes: Any, answer: dict[str, Any]) -> None:
    assert route("shop.pay", prepared(routes, LOADED.__getitem__), (1,), {"tenant": 7}, {}) == answer


def test_a_function_is_asked_with_the_whole_call() -> None:
    asked: list[Any] = []

    route("shop.pay", prepared(lambda *call: asked.append(call), LOADED.__getitem__), (1,), {"a": 2}, {"priority": 3})

    assert asked == [("shop.pay", (1,), {"a": 2}, {"priority": 3})]


@pytest.mark.parametrize("routes", [7, [7], "proj.text", "proj.seven", ["shop.pay", 3.5]], ids=repr)
def test_what_is_no_router_is_refused_with_what_one_is(routes: Any) -> None:
    with pytest.raises((ValueError, KeyError), match=r"is no router|not 3\.5"):
        prepared(routes, LOADED.__getitem__)
