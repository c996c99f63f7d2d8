"""Scenario files that people write: what is wrong with them is said, and none of them ends in a traceback or never."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celeriac_operator.cli import cli
from celeriac_operator.errors import SetupError
from celeriac_operator.simulate.described import read_scenario
from celeriac_operator.simulate.figures import run
from celeriac_operator.simulate.keda import KedaSettings
from celeriac_operator.simulate.load import tasks_expected
from celeriac_operator.simulate.scenario import Scenario, check


def document(**fields: Any) -> dict[str, Any]:
    """Ten minutes, one queue with a task every ten seconds. arrivals, and queue's fields, replace the queue's own."""
    queue = {"name": "q", "serviceTime": {"mean": "1s"}, "arrivals": fields.pop("arrivals", [{"rate": 0.1}])}
    return {"duration": "10m", "queues": [{**queue, **fields.pop("queue", {})}], **fields}


def read(folder: Path, raw: Any) -> Scenario:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(raw))
    scenario = read_scenario(path)
    check(scenario)
    return scenario


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (None, "the file is None, must be a mapping with title, start"),
        (document(duration="0s"), "duration is '0s', must be above 0"),
        (document(duration="10 m"), "duration is '10 m', must be a duration such as 30s"),
        (document(duration="40d"), "duration is '40d', must be a duration such as 30s, 5m or 4h, up to 31 days"),
        (document(duration=True), "duration is True, must be a number from 0"),
        (document(start="noon"), "start is 'noon', must be a time such as 2026-01-05T08:00:00"),
        (document(start=7), "start is 7, must be a time"),
        (document(title=[1]), r"title is \[1\], must be text"),
        (document(pods={"slots": 0}), "pods.slots is 0, must be a whole number from 1 to 1000"),
        (document(pods={"slots": 1.5}), "pods.slots is 1.5, must be a whole number"),
        (document(pods=[3]), r"pods is \[3\], must be a mapping with slots"),
        (document(pool=[1]), r"pool is \[1\], must be a mapping"),
        (document(pool={"queues": 7}), "pool.queues is 7, must be a list"),
        (document(pool={"queues": [7]}), r"pool.queues\[0\] is 7, must be a mapping"),
        (document(pool={"queues": [{"name": "qq"}]}), "pool.queues names qq, which is not among queues: q"),
        (document(pool={"maxReplicas": 10000}, pods={"slots": 1000}), "are 10,000,000 slots"),
        (document(queue={"name": 3}), r"queues\[0\].name is 3, must be text"),
        (document(queues=[document()["queues"][0]] * 2), "queues names q more than once"),
        (document(queue={"serviceTime": {"mean": "0s"}}), r"queues\[0\].serviceTime.mean is '0s', must be above 0"),
        (
            document(queue={"serviceTime": {"mean": 0, "distribution": "lognormal"}}),
            r"serviceTime.mean is 0, must be above 0",
        ),
        (document(queue={"serviceTime": 3}), r"queues\[0\].serviceTime is 3, must be a mapping with mean"),
        (document(queue={"limitPerSecond": 0}), r"queues\[0\].limitPerSecond is 0, must be above 0"),
        (document(queue={"limitPerSecond": float("nan")}), "limitPerSecond is nan, must be a number"),
        (document(arrivals=[{"rate": float("nan")}]), r"arrivals\[0\].rate is nan, must be a number from 0 to 1000000"),
        (document(arrivals=[{"rate": float("inf")}]), r"arrivals\[0\].rate is inf, must be a number"),
        (document(arrivals=[{"rate": 10**400}]), "rate is 10+[.]{3}0+, must be a number"),
        (document(arrivals=[{"rate": 10**6}]), "has some 600,000,000 tasks; what can be simulated is up to 10,000,000"),
        (document(arrivals=[{"rate": 1, "for": "1m"}]), r"arrivals\[0\].for needs .*arrivals\[0\].every"),
        (
            document(arrivals=[{"rate": 10**6, "every": "9m", "for": "1ms"}]),
            "are 600,000,000 tasks; what can be drawn is up to 100,000,000",
        ),
        (document(arrivals=[{"count": 5, "every": 0}]), r"arrivals\[0\].every is 0, must be above 0"),
        (document(arrivals=[{"count": 0, "every": "0.1ms"}]), "every 0.0001 s is 6,000,000 times; up to 1,000,000"),
        (document(arrivals=[{"count": 1.5}]), r"arrivals\[0\].count is 1.5, must be a whole number"),
        (document(arrivals=[{"counts": [None], "span": "1m"}]), r"arrivals\[0\].counts\[0\] is None, must be a number"),
        (
            document(arrivals=[{"counts": [1, "a"], "span": "1m"}]),
            r"arrivals\[0\].counts\[1\] is 'a', must be a number",
        ),
        (document(arrivals=[{"counts": [1], "span": "0s"}]), r"arrivals\[0\].span is '0s', must be above 0"),
        (document(arrivals=[{"low": 0, "high": 1, "period": "0s"}]), r"arrivals\[0\].period is '0s', must be above 0"),
        (document(arrivals=[{"low": 2, "high": 1, "period": "1m"}]), r"arrivals\[0\].low is 2, above high 1"),
        (document(arrivals=7), r"queues\[0\].arrivals is 7, must be a list"),
        (document(arrivals=[7]), r"arrivals\[0\] is 7, must have rate"),
        (document(outages=[{"first": 0, "for": 1, "every": "0s"}]), r"outages\[0\].every is '0s', must be above 0"),
        (
            document(outages=[{"first": 0, "for": "1m", "every": 30}]),
            r"outages\[0\].for is 60 s, must be shorter than every, which is 30 s",
        ),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said_with_its_field_its_value_and_what_is_allowed(
    tmp_path: Path, raw: Any, said: str
) -> None:
    with pytest.raises(SetupError, match=said):
        read(tmp_path, raw)


@pytest.mark.parametrize(
    "text",
    ["a: [", "2026-13-01", "!!int x", "!!timestamp x", "!!bool x", "\x00", "[" * 5000, "a: \xff".encode("latin-1")],
    ids=lambda text: str(text)[:12],
)
def test_what_is_no_yaml_is_said(tmp_path: Path, text: str | bytes) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SetupError, match=rf"^{path} is not YAML"):
        read_scenario(path)


def test_a_scenario_begins_when_it_says_so(tmp_path: Path) -> None:
    """YAML reads some times itself, and text is taken as well."""
    monday_eight = 1_767_571_200.0 + 8 * 3600
    starts = ("2026-01-05T09:00:00+01:00", "2026-01-05 08:00:00", "2026-01-05T08:00Z")
    path = tmp_path / "own.yaml"
    found = []
    for start in starts:
        path.write_text(f"start: {start}\n" + yaml.safe_dump(document()))
        found.append(read_scenario(path).start_at)

    assert found == [monday_eight] * 3
    assert read(tmp_path, document()).start_at == 1_767_571_200.0


def test_a_load_without_a_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(document(arrivals=[])))

    done = CliRunner().invoke(cli, ["simulate", "--describe", str(path)])

    assert done.exit_code == 1
    assert "own: no task arrives within 10 min, so there is nothing to compare" in done.output


# ── any document ──

NUMBERS = st.one_of(
    st.integers(-2, 50), st.sampled_from([0, 0.5, 1.5, 1e9, 1e300, float("nan"), float("inf"), 10**400, True])
)
TEXTS = st.sampled_from(
    ["", "q", "0s", "1s", "30s", "5m", "1h", "40d", "1ms", "9" * 400 + "s", "auto", "lognormal", "a"]
)
ANYTHING = st.recursive(
    st.one_of(st.none(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=2)),
    max_leaves=4,
)


def mostly(usual: Any) -> Any:
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), ANYTHING)


def fields(required: dict[str, Any], **optional: Any) -> Any:
    """A mapping that mostly has what it should."""
    return st.fixed_dictionaries(
        {name: mostly(usual) for name, usual in required.items()},
        optional={name: mostly(usual) for name, usual in optional.items()},
    )


SHAPES = st.one_of(
    fields({"rate": 0.5}, first="1m", every="2m", **{"for": "30s"}),
    fields({"low": 0, "high": 1, "period": "2m"}),
    fields({"count": 20}, first="1m", every="2m", ahead="30s"),
    fields({"counts": [3, 0, 20], "span": "1m"}, first="1m"),
    ANYTHING,
)
QUEUES = st.fixed_dictionaries(
    {
        "name": mostly("q"),
        "serviceTime": st.one_of(fields({"mean": "2s"}, distribution="lognormal"), ANYTHING),
        "arrivals": st.one_of(st.lists(SHAPES, max_size=3), ANYTHING),
    },
    optional={"limitPerSecond": mostly(5)},
)
DOCUMENTS = st.one_of(
    ANYTHING,
    st.fixed_dictionaries(
        {"duration": mostly("10m"), "queues": st.one_of(st.lists(QUEUES, min_size=1, max_size=2), ANYTHING)},
        optional={
            "title": mostly("Own"),
            "start": mostly("2026-01-05T08:00:00Z"),
            "pods": st.one_of(fields({}, slots=2, coldStart="5s", grace="10s"), ANYTHING),
            "pool": st.one_of(
                fields({}, minReplicas=1, maxReplicas=5, queues=[{"name": "q"}], objective={"seconds": 30}), ANYTHING
            ),
            "outages": st.one_of(st.lists(fields({"first": "1m", "for": "10s"}, every="2m"), max_size=2), ANYTHING),
        },
    ),
)


@settings(max_examples=400, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
@given(raw=DOCUMENTS)
def test_no_document_ends_in_a_traceback_or_never(tmp_path_factory: pytest.TempPathFactory, raw: Any) -> None:
    """It is a SetupError, or a scenario; and a small one can be simulated."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(raw))
    try:
        scenario = read_scenario(path)
        check(scenario)
    except SetupError as error:
        assert str(error)
        return
    tasks = sum(tasks_expected(shape, scenario.duration_s) for load in scenario.loads for shape in load.shapes)
    if tasks > 2000 or scenario.duration_s > 3600 or scenario.pods.slots * scenario.spec.max_replicas > 500:
        return  # it ends, but not soon enough for a test
    most = scenario.spec.max_replicas
    for keda in (None, KedaSettings(value=2, min_replicas=min(1, most), max_replicas=most)):
        assert run(scenario, keda, 1).pod_hours >= 0.0
