"""task_annotations: the settings change tasks that somebody else wrote."""

import sys
import types
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.exceptions import ImproperlyConfigured


def app(annotations: Any) -> Celeriac:
    return Celeriac("shop", broker="memory://", set_as_current=False, task_annotations=annotations)


class Halved:
    """Half the rate for shop.pay, and a time limit for all."""

    def annotate(self, task: Any) -> Any:
        return {"rate_limit": "5/s"} if task.name == "shop.pay" else None

    def annotate_any(self) -> Any:
        return {"time_limit": 30}


@pytest.mark.parametrize(
    ("annotations", "rate_limit", "time_limit"),
    [
        pytest.param(None, None, None, id="none"),
        pytest.param({"shop.pay": {"rate_limit": "10/s"}}, "10/s", None, id="by name"),
        pytest.param({"*": {"rate_limit": "10/s", "time_limit": 9}}, "10/s", 9, id="all tasks"),
        pytest.param({"shop.*": {"rate_limit": "10/s"}}, None, None, id="a glob is a name here, as in Celery"),
        pytest.param({"*": {"time_limit": 9}, "shop.pay": {"rate_limit": "10/s"}}, "10/s", 9, id="both"),
        pytest.param([{"shop.pay": {"rate_limit": "1/s"}}, {"shop.pay": {"time_limit": 3}}], "1/s", None, id="the first of a list"),
        pytest.param(Halved, "5/s", 30, id="a class"),
        pytest.param([{"other": {}}, Halved()], "5/s", 30, id="an object in a list"),
        pytest.param("shop_annotations.Halved", "5/s", 30, id="a dotted path"),
        pytest.param({"shop.pay": {"@time_limit": lambda own: (own or 1) * 2}}, None, 2, id="from the task's own"),
    ],
)  # fmt: skip
def test_attributes_are_set_as_a_task_is_registered(
    annotations: Any, rate_limit: Any, time_limit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shop_annotations", types.SimpleNamespace(Halved=Halved))

    task = app(annotations).task(lambda: 1, name="shop.pay")

    assert (task.rate_limit, task.time_limit) == (rate_limit, time_limit)


def test_a_function_becomes_a_method_and_a_later_task_is_annotated_too() -> None:
    told: list[Any] = []

    def on_failure(self: Any, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        told.append((self.name, str(exc)))

    shop = app({"*": {"on_failure": on_failure}})
    task = shop.task(lambda: 1 / 0, name="shop.pay")
    later = shop.task(lambda: 1, name="later")

    task.on_failure(ValueError("x"), "", (), {}, None)

    assert told == [("shop.pay", "x")]
    assert "on_failure" in later._hooked


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (7, "7 is neither a mapping"),
        ([None], "None is neither a mapping"),
        ({"shop.pay": "10/s"}, "of 'shop.pay' a mapping of attributes is wanted"),
        ({"*": {"rate_limit": "10/fortnight"}}, r"task shop\.pay: rate limit '10/fortnight'"),
        ("no.such.annotations", r"cannot import 'no\.such\.annotations'"),
    ],
)
def test_what_is_no_annotation_is_refused_as_the_task_is_registered(annotations: Any, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        app(annotations).task(lambda: 1, name="shop.pay")
