"""Remote control's pure parts: the table of commands, what words mean, what a newcomer takes over, what settings are shown."""

import logging
from collections.abc import Iterable
from typing import Any

import pytest

from celeriac.config import secret
from celeriac.wire.control import COMMANDS, arguments_of
from celeriac.worker.mingle import heed
from celeriac.worker.remote import _number_of, _stamped

BY_NAME = {info.name: info for info in COMMANDS}


def test_no_name_means_two_commands() -> None:
    names = [name for info in COMMANDS for name in (info.name, *info.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("info", COMMANDS, ids=lambda info: info.name)
def test_each_command_is_an_inspect_or_a_control_with_a_sentence_of_help(info: Any) -> None:
    assert info.kind in {"inspect", "control"}
    assert info.help.endswith(".")


@pytest.mark.parametrize(
    ("command", "words", "meant"),
    [
        ("ping", [], {}),
        ("rate_limit", ["shop.add", "5/s"], {"task_name": "shop.add", "rate_limit": "5/s"}),
        (
            "rate_limit",
            ["shop.add", "5/s", "cluster"],
            {"task_name": "shop.add", "rate_limit": "5/s", "scope": "cluster"},
        ),
        ("time_limit", ["shop.add", "5", "7.5"], {"task_name": "shop.add", "soft": 5.0, "hard": 7.5}),
        ("pool_grow", ["3"], {"n": 3}),
        ("revoke", ["a", "b"], {"task_id": ["a", "b"]}),
        ("terminate", ["KILL", "a", "b"], {"signal": "KILL", "task_id": ["a", "b"]}),
        ("registered", ["rate_limit"], {"taskinfoitems": ["rate_limit"]}),
        ("conf", ["yes"], {"with_defaults": True}),
        ("conf", ["no"], {"with_defaults": False}),
        ("drain", ["90"], {"ttl_s": 90.0}),
    ],
)
def test_words_mean_arguments(command: str, words: list[str], meant: dict[str, Any]) -> None:
    assert arguments_of(BY_NAME[command], words) == meant


@pytest.mark.parametrize(
    ("command", "words", "problem"),
    [
        ("ping", ["hard"], "ping takes nothing; 'hard' is too much"),
        ("pool_grow", ["many"], "pool_grow: n cannot be 'many', it is a int"),
        ("pool_grow", ["1", "2"], "pool_grow takes n; '2' is too much"),
    ],
)
def test_words_that_mean_nothing_are_refused(command: str, words: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        arguments_of(BY_NAME[command], words)


@pytest.mark.parametrize(("given", "number"), [(None, 15), ("TERM", 15), ("sigkill", 9), ("SIGUSR1", 10), (9, 9)])
def test_signals_are_named_as_in_celery(given: Any, number: int) -> None:
    assert _number_of(given) == number


def test_a_signal_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no signal 'HURRY'"):
        _number_of("HURRY")


@pytest.mark.parametrize(
    ("stamps", "wanted", "hit"),
    [
        ({"customer": ["42"]}, {"customer": ["42"]}, True),
        ({"customer": "42"}, {"customer": ["41", "42"]}, True),
        ({"customer": ["41"]}, {"customer": ["42"]}, False),
        ({"order": ["42"]}, {"customer": ["42"]}, False),
        ({"customer": 42}, {"customer": ["42"]}, True),
        ({"customer": [41, 42]}, {"customer": ["42"]}, True),
        (None, {"customer": ["42"]}, False),
        ("nonsense", {"customer": ["42"]}, False),
    ],
)
def test_stamps_are_met_by_name_and_value(stamps: Any, wanted: dict[str, list[str]], hit: bool) -> None:
    assert _stamped(stamps, wanted) is hit


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("broker_url", "redis://:secret@host/0", "redis://:**@host/0"),
        ("security_key", "/path", "********"),
        ("my_api_token", "abc", "********"),
        ("broker_transport_options", {"sentinel_kwargs": {"password": "x"}}, {"sentinel_kwargs": {"password": "********"}}),
        ("accept_content", ["json"], ["json"]),
        ("worker_concurrency", 4, 4),
        ("security_key", None, None),
    ],
)  # fmt: skip
def test_settings_are_shown_without_secrets(name: str, value: Any, shown: Any) -> None:
    assert secret.shown(name, value) == shown


class Known:
    """What a newcomer learns."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.clock = 5

    def hear_revoked(self, ids: Iterable[str]) -> None:
        self.ids += ids

    def adjust(self, other: int) -> None:
        self.clock = max(self.clock, other) + 1


@pytest.mark.parametrize(
    ("node", "said", "ids", "clock", "warned"),
    [
        ("b@x", {"revoked": ["1", "2"], "clock": 40}, ["1", "2"], 41, False),
        ("b@x", {"revoked": {"1": 17.0}, "clock": 2}, [], 6, False),
        ("b@x", None, [], 5, False),
        ("b@x", {"error": "KeyError('hello')"}, [], 5, False),
        ("a@x", {"incarnation": "another"}, [], 5, True),
        ("a@x", {"incarnation": "mine"}, [], 5, False),
        ("a@x", None, [], 5, False),
    ],
    ids=["a worker's", "of an older form", "own, to Celery's rule", "of one that knows no hello", "a namesake's", "own", "Celery's namesake"],
)  # fmt: skip
def test_a_newcomer_heeds_what_others_answer(
    node: str, said: Any, ids: list[str], clock: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    known: Any = Known()
    with caplog.at_level(logging.WARNING):
        heed(node, said, "a@x", "mine", known, known)
    assert (known.ids, known.clock) == (ids, clock)
    assert ("another worker is named a@x too" in caplog.text) is warned
