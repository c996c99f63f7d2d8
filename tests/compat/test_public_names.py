"""Public names of the real Celery's modules: ours has each of them, and they mean the same."""

import json
import subprocess
from typing import Any

import pytest
from compat_env import CannotMake, celery_python
from missing import give_up

from celeriac import exceptions, signals, states

ASKS = """
import json, celery.exceptions as e, celery.signals as s, celery.states as t
kinds = {n: [b.__name__ for b in getattr(e, n).__mro__] for n in e.__all__ if isinstance(getattr(e, n), type)}
sets = {n: sorted(getattr(t, n)) for n in ("READY_STATES", "EXCEPTION_STATES", "PROPAGATE_STATES", "UNREADY_STATES", "ALL_STATES")}
names = sorted(t.ALL_STATES) + ["CUSTOM"]
order = {a: [t.precedence(a), {b: t.state(a) > t.state(b) for b in names}] for a in names}
public = {"exceptions": list(e.__all__), "signals": list(s.__all__), "states": list(t.__all__)}
print(json.dumps({**public, "kinds": kinds, "sets": sets, "order": order}))
"""
#: Celery's base classes that we have not, and what stands for them.
RENAMED = {
    "CeleryError": "CeleriacError",
    "CeleryWarning": "CeleriacWarning",
    "KombuError": "CeleriacError",
    "ClickException": "Exception",
}
#: Not ours to have: an error of the command line's own library.
ABSENT = {"CeleryCommandException"}


@pytest.fixture(scope="module")
def celery() -> Any:
    try:
        python = celery_python()
    except CannotMake as error:
        give_up(str(error))
    run = subprocess.run([python, "-c", ASKS], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_every_exception_of_celery_s_is_there_and_derives_from_the_same(celery: Any) -> None:
    missing = [name for name in celery["exceptions"] if name not in ABSENT and not hasattr(exceptions, name)]
    assert missing == []
    for name, bases in celery["kinds"].items():
        if name in ABSENT:
            continue
        ours = {base.__name__ for base in getattr(exceptions, name).__mro__}
        assert {RENAMED.get(base, base) for base in bases} - {"object"} <= ours | {name}, name


def test_every_signal_of_celery_s_is_there(celery: Any) -> None:
    missing = [name for name in celery["signals"] if not isinstance(getattr(signals, name, None), signals.Signal)]

    assert missing == []


def test_states_their_sets_and_their_order_are_celery_s(celery: Any) -> None:
    assert [name for name in celery["states"] if not hasattr(states, name)] == []
    for name, members in celery["sets"].items():
        assert sorted(getattr(states, name)) == members, name
    for first, (rank, above) in celery["order"].items():
        assert states.precedence(first) == rank, first
        for second, is_above in above.items():
            assert (states.state(first) > states.state(second)) is is_above, (first, second)
