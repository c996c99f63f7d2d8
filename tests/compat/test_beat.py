"""Beat beside the real Celery: its workers run what our beat sends, and its crontab means what ours means."""

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compat_env import celery_python
from libraries import Place, environment, start_worker
from processes import Child

from celeriac.schedules import crontab

MODULES = Path(__file__).resolve().parent / "peer"

#: Reads [[fields, moment], …], gives the moment of Celery's next run for each.
PEER = """
import json, sys
from datetime import datetime, timedelta
from celery import Celery
from celery.schedules import crontab
app = Celery(set_as_current=True)
found = []
for fields, text in json.load(sys.stdin):
    at = datetime.fromisoformat(text)
    found.append((at + crontab(**fields, nowfun=lambda: at).remaining_estimate(at)).isoformat())
json.dump(found, sys.stdout)
"""


def test_celerys_worker_runs_what_our_beat_sends(place: Place, tmp_path: Path) -> None:
    worker = start_worker("celery", place, tmp_path / "worker.log")
    entries = {"sum": {"task": "shop.add", "schedule": 0.5, "args": [2, 3], "options": {"headers": {"own": 1}}}}
    env = environment("celeriac", place, modules=MODULES) | {"CELERIAC_BEAT_SCHEDULE": json.dumps(entries)}
    command = [sys.executable, "-m", "celeriac", "-A", "shop", "beat", "-l", "info"]
    beat = Child(command, log=tmp_path / "beat.log", env=env, cwd=tmp_path)
    try:
        beat.wait_for("sent shop.add[")
        task_id = beat.text().split("sent shop.add[")[1][:36]

        output = worker.wait_for(f"shop.add[{task_id}] succeeded")

        assert ": 5" in output.split(f"{task_id}] succeeded")[1].splitlines()[0]
    finally:
        beat.kill()
        worker.kill()


def test_celerys_crontab_and_ours_name_the_same_next_run(_compat_env: None) -> None:
    """In UTC, which no clock change disturbs."""
    chance = random.Random(20_261_122)
    asked = [_question(chance) for _ in range(2000)]

    answered = subprocess.run(
        [celery_python(), "-c", PEER], input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=60
    )

    theirs = [datetime.fromisoformat(text) for text in json.loads(answered.stdout)]
    ours = [crontab(**fields).next_after(datetime.fromisoformat(text), UTC) for fields, text in asked]
    differ = [(*asked[n], theirs[n], ours[n]) for n in range(len(asked)) if theirs[n] != ours[n]]
    assert differ == []


def _question(chance: random.Random) -> tuple[Mapping[str, Any], str]:
    """Fields of a crontab, and a moment of these twenty years."""
    fields = {
        "minute": _field(chance, 0, 59),
        "hour": _field(chance, 0, 23),
        "day_of_week": chance.choice(["*", "*", "mon-fri", "sat,sun", "fri-mon", "0", "3"]),
        "day_of_month": chance.choice(["*", "*", "*", "1-7", "*/5", "31", "29", "15,30"]),
        "month_of_year": chance.choice(["*", "*", "*", "*/3", "jan,jul", "11-2", "2,3"]),
    }
    at = datetime.fromtimestamp(chance.randrange(1_262_304_000, 1_893_456_000), UTC)
    return fields, at.isoformat()


def _field(chance: random.Random, low: int, high: int) -> str:
    first, last = chance.randint(low, high), chance.randint(low, high)
    return chance.choice(
        ["*", f"*/{chance.randint(1, high)}", str(first), f"{first},{last}", f"{first}-{last}", f"{first}-{last}/2"]
    )
