"""Signatures as values: what every constructor and `|` make, what copies share, what survives JSON and pickle, what is refused at the call."""

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac import Celeriac, chain, chord, group, signature
from celeriac.broker.codec import encode_body
from celeriac.canvas import Signature, chunks, maybe_signature, subtask, xmap, xstarmap
from celeriac.canvas.freeze import frozen
from celeriac.canvas.plan import Plan, compose, size
from celeriac.result import AsyncResult, GroupResult

app = Celeriac("forms", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(name="a")
def a(*args: Any, **kwargs: Any) -> None: ...


@app.task(name="b")
def b(*args: Any, **kwargs: Any) -> None: ...


@app.task(name="two")
def two(x: int, y: int) -> int:
    return x + y


A, B, C, D = (Signature(name, app=app) for name in "abcd")


def shape(sig: Any) -> Any:
    """A signature as its letters: lists are chains, sets of brackets say the rest."""
    match sig:
        case chain():
            return [shape(step) for step in sig.tasks]
        case group():
            return {"group": [shape(member) for member in sig.tasks]}
        case chord():
            return {"header": [shape(member) for member in sig.tasks], "body": shape(sig.body)}
        case _:
            return sig["task"]


def g(*members: Any) -> Any:
    return {"group": list(members)}


def c(header: list[Any], body: Any) -> Any:
    return {"header": header, "body": body}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param(lambda: A | B, ["a", "b"], id="task | task"),
        pytest.param(lambda: A | (B | C), ["a", "b", "c"], id="task | chain"),
        pytest.param(lambda: (A | B) | C, ["a", "b", "c"], id="chain | task"),
        pytest.param(lambda: (A | B) | (C | D), ["a", "b", "c", "d"], id="chain | chain"),
        pytest.param(lambda: A | group(B, C), ["a", g("b", "c")], id="task | group"),
        pytest.param(lambda: A | group(B), ["a", "b"], id="task | group of one"),
        pytest.param(lambda: A | B | group([]), ["a", "b"], id="chain | empty group"),
        pytest.param(lambda: group(A, B) | C, c(["a", "b"], "c"), id="group | task"),
        pytest.param(lambda: group(A) | C, c(["a"], "c"), id="group of one | task"),
        pytest.param(lambda: group([]) | C, c([], "c"), id="empty group | task"),
        pytest.param(lambda: group(A, B) | (C | D), c(["a", "b"], ["c", "d"]), id="group | chain"),
        pytest.param(lambda: group(A, B) | group(C, D), c(["a", "b"], g("c", "d")), id="group | group"),
        pytest.param(lambda: group(A, B) | chord([C], D), c(["a", "b"], c(["c"], "d")), id="group | chord"),
        pytest.param(lambda: chord([A], B) | C, c(["a"], ["b", "c"]), id="chord | task"),
        pytest.param(lambda: chord([A], B) | group(C, D), [c(["a"], "b"), g("c", "d")], id="chord | group"),
        pytest.param(lambda: A | chord([B], C), ["a", c(["b"], "c")], id="task | chord"),
        pytest.param(lambda: A | group(B, C) | D, ["a", c(["b", "c"], "d")], id="chain that ends in a group | task"),
        pytest.param(
            lambda: A | group(B, C) | group(C, D) | A, ["a", c(["b", "c"], c(["c", "d"], "a"))], id="groups in a row"
        ),
        pytest.param(lambda: chain(A, chain(B, chain(C, D))), ["a", "b", "c", "d"], id="chain of chains"),
        pytest.param(lambda: chain([A, B]), ["a", "b"], id="chain of a list"),
        pytest.param(lambda: chain(A), ["a"], id="chain of one"),
        pytest.param(lambda: chain(group([]), A), ["a"], id="chain that begins with an empty group"),
        pytest.param(lambda: chain(A, group([]), B), ["a", "b"], id="chain with an empty group"),
        pytest.param(lambda: chain(group(A, B), C), c(["a", "b"], "c"), id="chain that is a chord"),
        pytest.param(lambda: group(group(A, B)), g("a", "b"), id="group of a group"),
        pytest.param(lambda: group([A, B]), g("a", "b"), id="group of a list"),
        pytest.param(lambda: group(x for x in (A, B)), g("a", "b"), id="group of a generator"),
        pytest.param(lambda: chord(group(A, B), C), c(["a", "b"], "c"), id="chord of a group"),
        pytest.param(lambda: chord(x for x in (A, B)), c(["a", "b"], None) , id="chord without a body"),
    ],
)  # fmt: skip
def test_what_is_written_is_what_is_made(made: Any, expected: Any) -> None:
    if expected == c(["a", "b"], None):
        assert [shape(one) for one in made().tasks] == ["a", "b"]
        assert made().body is None
        return
    assert shape(made()) == expected


def test_joining_changes_neither_side() -> None:
    first, second = a.s(1) | a.s(2), b.s(3)
    before = copy.deepcopy((dict(first), dict(second)))

    joined = first | second
    joined.tasks[0].args = (9,)

    assert (dict(first), dict(second)) == before


def test_ior_makes_a_new_one() -> None:
    first = kept = a.s()
    first |= b.s()

    assert (shape(first), shape(kept)) == (["a", "b"], "a")


# -- one call


def test_arguments_of_a_clone_go_before_its_own() -> None:
    made = a.s(2, k=1).clone((1,), {"k": 2, "l": 3}, queue="q")

    assert (made.args, made.kwargs, made.options) == ((1, 2), {"k": 2, "l": 3}, {"queue": "q"})


def test_an_immutable_one_takes_none() -> None:
    made = a.si(2).clone((1,), {"k": 2}, queue="q")

    assert (made.args, made.kwargs, made.options, made.immutable) == ((2,), {}, {"queue": "q"}, True)


def test_set_changes_it_and_gives_it_back() -> None:
    sig = a.s()

    assert sig.set(immutable=True, queue="q") is sig
    assert (sig.immutable, sig.options) == (True, {"queue": "q"})


def test_links_are_kept_once_and_belong_to_one_alone() -> None:
    sig = a.s()
    other = sig.clone()
    assert sig.link(b.s()) == b.s()
    sig.link(b.s())
    sig.on_error(b.si(1)).link_error(b.si(1))
    cloned = sig.clone()
    cloned.link(b.s(2))

    assert sig.options == {"link": [b.s()], "link_error": [b.si(1)]}
    assert other.options == {}
    assert len(cloned.options["link"]) == 2
    assert sig.flatten_links() == [sig, b.s()]


def test_a_link_of_a_group_is_its_first_members_and_one_of_a_chord_its_bodys() -> None:
    several, counted = group(a.s(), a.s()), chord([a.s()], a.s())
    several.link(b.s())
    several.link_error(b.s())
    counted.link(b.s())

    assert [member.options for member in several.tasks] == [
        {"link": [b.si()], "link_error": [b.s()]},
        {"link_error": [b.s()]},
    ]
    assert counted.body.options == {"link": [b.s()]}


def test_a_chord_without_a_body_cannot_be_linked_to() -> None:
    with pytest.raises(ValueError, match="has no body yet"):
        chord([a.s()]).link(b.s())


def test_signature_and_subtask_take_tasks_names_and_mappings() -> None:
    assert subtask is signature
    assert signature("a", (1,), {"k": 2}, app=app) == a.s(1, k=2)
    assert signature(a, args=(1,)) == a.s(1)
    assert type(signature(dict(a.s() | b.s()))) is chain
    one = a.s(1)
    assert signature(one, app=app) == one
    assert signature(one, app=app) is not one
    assert (maybe_signature(None), maybe_signature(one) is one) == (None, True)


def test_a_signature_without_an_app_is_of_the_first_app_within_it() -> None:
    bare = chain(group([a.s(), a.s()]), chord([chain(a.s(), a.s())], a.s()))

    assert group([chord([Signature("x")], chain(Signature("y"), a.s()))]).app is app
    assert bare.app is app


def test_values_of_a_mapping_are_not_shared_with_what_is_read_from_it() -> None:
    Signature({"task": "a"}).kwargs["k"] = 1

    assert Signature({"task": "b"}).kwargs == {}


def test_skew_sets_members_apart() -> None:
    assert [m.options["countdown"] for m in group(a.s() for _ in range(4)).skew(1, 3).tasks] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("sig", "shown"),
    [
        (a.s(1, k=2), "a(1, k=2)"),
        (a.s(1) | b.s(), "a(1) | b()"),
        (group(a.s(), b.s()), "group([a(), b()])"),
        (chord([a.s()], b.s()), "chord(group([a()]), b())"),
        (a.map([1, 2]), "[a(x) for x in [1, 2]]"),
        (a.starmap([(1, 2)]), "[a(*x) for x in [(1, 2)]]"),
    ],
    ids=["task", "chain", "group", "chord", "map", "starmap"],
)
def test_it_shows_itself_as_it_is_written(sig: Any, shown: str) -> None:
    assert repr(sig) == shown


@pytest.mark.parametrize(
    ("made", "of"),
    [(a.map([1]), xmap), (a.starmap([(1,)]), xstarmap), (a.chunks([(1,)], 2), chunks), (xmap(a.s(), [1]), xmap)],
    ids=["map", "starmap", "chunks", "xmap"],
)
def test_calls_of_many_items_are_signatures_of_their_kind(made: Any, of: type) -> None:
    read = Signature.from_dict(json.loads(json.dumps(made)), app=app)

    assert type(made) is type(read) is of
    assert made.immutable


def test_chunks_are_a_group_of_starmaps() -> None:
    parts = a.chunks(zip(range(5), range(5), strict=True), 2).group()

    assert [len(member.kwargs["it"]) for member in parts.tasks] == [2, 2, 1]
    assert [member.task for member in parts.tasks] == ["celery.starmap"] * 3


# -- what is refused, at the call


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        pytest.param(lambda: group([1, 2]), TypeError, "is no signature", id="values for signatures"),
        pytest.param(lambda: chain(5), TypeError, "is no signature", id="a number"),
        pytest.param(lambda: a.s() | 5, TypeError, "unsupported operand", id="a value after |"),
        pytest.param(lambda: a.chunks([(1,)], 0), ValueError, "at least 1", id="chunks of nothing"),
        pytest.param(lambda: chain().apply_async(), ValueError, "empty chain", id="an empty chain"),
        pytest.param(lambda: chord([a.s()]).apply_async(), ValueError, "has no body", id="a chord without a body"),
        pytest.param(lambda: group(a.s()).apply_async(link=b.s()), TypeError, "make it a chord", id="a link of a group"),
        pytest.param(lambda: two.s(1, 2, 3).apply_async(), TypeError, r"two\(", id="arguments that do not fit"),
        pytest.param(lambda: group(two.s(1, 2, 3)).apply_async(), TypeError, r"two\(", id="arguments of a member that do not fit"),
        pytest.param(lambda: a.s().set(colour="red").apply_async(), TypeError, "colour", id="an unknown option"),
        pytest.param(lambda: group(a.s().set(colour="red")).apply_async(), TypeError, "colour", id="an unknown option of a member"),
        pytest.param((a.s() | b.s().set(colour="red")).apply_async, TypeError, "colour", id="an unknown option of a later step"),
        pytest.param(lambda: chord([a.s()], b.s().set(colour="red")).apply_async(), TypeError, "colour", id="an unknown option of a body"),
    ],
)  # fmt: skip
def test_bad_use_is_refused_where_it_is_written(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


# -- what survives


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_names = st.sampled_from(["a", "b", "elsewhere.c"])


@st.composite
def signatures(draw: st.DrawFn, depth: int = 3) -> Signature:
    """Any signature, with arguments, options, links and stamps."""
    inner = signatures(depth=depth - 1)
    match draw(st.sampled_from(["one", "chain", "group", "chord", "map"])) if depth else "one":
        case "chain":
            made: Any = chain(draw(st.lists(inner, min_size=2, max_size=3)))
        case "group":
            made = group(draw(st.lists(inner, min_size=1, max_size=3)))
        case "chord":
            made = chord(draw(st.lists(inner, min_size=1, max_size=3)), draw(inner))
        case "map":
            made = xmap(a.s(), draw(st.lists(_json, max_size=3)))
        case _:
            arguments = draw(st.lists(_json, max_size=3)), draw(st.dictionaries(st.sampled_from("kl"), _json))
            made = Signature(draw(_names), *arguments, immutable=draw(st.booleans()), app=app)
            if draw(st.booleans()):
                made.set(queue=draw(st.sampled_from(["q", "r"])), countdown=draw(st.integers(0, 9)))
            if depth and draw(st.booleans()):
                made.link(draw(inner))
            if depth and draw(st.booleans()):
                made.link_error(draw(inner))
            if draw(st.booleans()):
                made.stamp(order=draw(_json))
    return made


def plan_of(sig: Signature) -> Any:
    """What would be sent for a frozen signature, without what the time of sending decides."""
    plan = Plan([], [])
    compose(app, sig, plan)
    timely = {"celeriac_sent_at", "eta", "origin", "argsrepr", "kwargsrepr"}
    return [
        (
            message.queue,
            {k: v for k, v in message.headers.items() if k not in timely},
            json.loads(json.dumps(message.body)),
        )
        for message in plan.messages
    ], plan.chords


@settings(max_examples=150, deadline=None)
@given(sig=signatures())
def test_any_signature_survives_json_and_pickle_and_gives_the_same_plan(sig: Signature) -> None:
    whole, _ = frozen(app, sig)
    text = json.dumps(whole)
    read = Signature.from_dict(json.loads(text), app=app)

    assert json.dumps(read) == text
    assert plan_of(read) == plan_of(whole)
    assert json.dumps(pickle.loads(pickle.dumps(whole))) == text
    assert json.dumps(copy.deepcopy(whole)) == text


@settings(max_examples=150, deadline=None)
@given(sig=signatures())
def test_sending_changes_nothing_and_every_call_has_an_id_of_its_own(sig: Signature) -> None:
    before = json.dumps(sig)
    first, second = plan_of(frozen(app, sig)[0]), plan_of(frozen(app, sig)[0])

    assert json.dumps(sig) == before
    ids = [headers["id"] for _, headers, _ in (*first[0], *second[0])]
    assert len(ids) == len(set(ids))


# -- handles


def ids(result: Any) -> list[str]:
    return [one.id for one in result.results] if isinstance(result, GroupResult) else [result.id]


def test_the_handle_of_a_chain_is_its_last_steps_and_leads_to_the_others() -> None:
    sig = a.s() | b.s() | a.s()
    result = sig.freeze()

    assert result.id == sig.tasks[-1].id
    assert [result.parent.id, result.parent.parent.id] == [sig.tasks[1].id, sig.tasks[0].id]
    assert result.as_list() == [step.id for step in reversed(sig.tasks)]


def test_the_handle_of_a_chord_is_its_bodys_and_its_parent_is_the_header() -> None:
    sig = chord([a.s(), a.s()], b.s() | b.s())
    result = sig.freeze()
    header = result.parent.parent

    assert isinstance(header, GroupResult)
    assert (header.id, ids(header)) == (sig.header.id, [member.id for member in sig.tasks])
    assert result.id == sig.body.tasks[-1].id


def test_the_handle_of_a_chain_that_ends_in_a_group_is_the_groups() -> None:
    result = (a.s() | group(b.s(), b.s())).freeze()

    assert isinstance(result, GroupResult)
    assert isinstance(result.parent, AsyncResult)
    assert len(result) == 2


def test_a_frozen_signature_is_sent_under_the_ids_it_has() -> None:
    sig = chord([a.s(), a.s()], b.s())
    frozen_ids = (ids(sig.freeze().parent), sig.body.id)
    messages, [start] = plan_of(frozen(app, sig)[0])

    assert ([headers["id"] for _, headers, _ in messages], sig.body.id) == frozen_ids
    assert (start.group_id, start.size) == (sig.header.id, 2)


@pytest.mark.parametrize(
    ("sig", "calls"),
    [
        (a.s(), 1), (a.s() | b.s(), 1), (group(a.s(), group(b.s(), b.s())), 3), (a.s() | group(b.s(), b.s()), 2),
        (chord([a.s(), a.s()], b.s()), 1), (chord([a.s()], group(b.s(), b.s())), 2), (group([]), 0), (a.chunks([(1,)] * 5, 2), 3),
    ],
    ids=["task", "chain", "nested group", "chain to group", "chord", "chord to group", "nothing", "chunks"],
)  # fmt: skip
def test_a_member_counts_for_as_many_calls_as_it_ends_with(sig: Any, calls: int) -> None:
    assert size(sig) == calls


# -- how much is written


def bytes_of(sig: Signature) -> int:
    """All bodies that are sent now."""
    plan = Plan([], [])
    compose(app, frozen(app, sig)[0], plan)
    return sum(len(encode_body(message.body, message.serializer)[2]) for message in plan.messages)


def long_chain(count: int) -> Signature:
    return chain([a.s(n) for n in range(count)])


def wide_group(count: int) -> Signature:
    return group(a.s(n) for n in range(count))


def wide_chord(count: int) -> Signature:
    return chord([a.s(n) for n in range(count)], b.s())


def many_chords(count: int) -> Signature:
    return chain(a.s(), *(step for _ in range(count) for step in (group(a.s(), a.s()), b.s())))


def deep_chords(count: int) -> Signature:
    made: Any = a.s()
    for _ in range(count):
        made = chord([made], b.s())
    return made


@pytest.mark.parametrize(
    ("make", "count"),
    [(long_chain, 500), (wide_group, 5000), (wide_chord, 5000), (many_chords, 50)],
    ids=["chain", "group", "chord", "chords in a row"],
)  # fmt: skip
def test_twice_the_calls_are_twice_the_bytes(make: Any, count: int) -> None:
    assert bytes_of(make(2 * count)) / bytes_of(make(count)) == pytest.approx(2, abs=0.1)


def test_a_chain_of_a_thousand_names_each_step_once() -> None:
    plan = Plan([], [])
    compose(app, frozen(app, long_chain(1000))[0], plan)

    [message] = plan.messages
    text = encode_body(message.body, message.serializer)[2].decode()
    assert text.count('"task_id"') == 999
    assert len(text) < 200 * 1000


def test_a_depth_of_chords_is_written_as_often_as_it_is_deep() -> None:
    """The innermost member carries its body, which carries its own place in the next: each once."""
    assert bytes_of(deep_chords(40)) / bytes_of(deep_chords(20)) < 2.5
