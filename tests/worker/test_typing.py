"""What a type checker knows of a task: its function's arguments in `delay`, its function's value in `get`. mypy itself is asked."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TASKS = """
from celeriac import Celeriac, Task, shared_task

app = Celeriac("shop")

@app.task
def add(x: int, y: int = 0) -> int:
    return x + y

@app.task(bind=True, max_retries=5)
def charge(self: Task, order_id: int) -> str:
    return f"{self.request.id} {order_id}"

@app.task(queue="slow")
async def fetch(url: str) -> bytes:
    return url.encode()

@shared_task
def half(x: int) -> float:
    return x / 2

class Database(Task):
    db = "orders"

@app.task(base=Database)
def count() -> int:
    return 3

class AddTask(Task):
    def run(self, x: int, y: int) -> int:
        return x + y

async def wait() -> None:
    reveal_type(await add.delay(1))
    reveal_type(await (await add.adelay(1, y=2)))
    await add.adelay("1")

"""

#: A line, and what mypy says of it; nothing means that it is right.
LINES = [
    ("add.delay(1, y=2)", ""),
    ("reveal_type(add.delay(1).get())", 'Revealed type is "int"'),
    ("reveal_type(add.apply_async((1,)).get())", 'Revealed type is "int"'),
    ("reveal_type(add.apply((1,)).get())", 'Revealed type is "int"'),
    ("reveal_type(add(1))", 'Revealed type is "int"'),
    ("reveal_type(charge.delay(42).get())", 'Revealed type is "str"'),
    ("reveal_type(fetch.delay('a').get())", 'Revealed type is "bytes"'),
    ("reveal_type(half.delay(1).get())", 'Revealed type is "float"'),
    ("reveal_type(count.db)", 'Revealed type is "str"'),
    ("app.register_task(AddTask).delay(1, 2)", ""),
    ("add.delay('1')", 'Argument 1 to "delay" of "Task" has incompatible type "str"; expected "int"'),
    ("add.delay(1, z=2)", 'Unexpected keyword argument "z" for "delay" of "Task"'),
    ("add('1')", 'Argument 1 to "__call__" of "Task" has incompatible type "str"; expected "int"'),
    ("charge.delay()", 'Missing positional argument "order_id" in call to "delay" of "Task"'),
    ("fetch.delay(b'a')", 'Argument 1 to "delay" of "Task" has incompatible type "bytes"; expected "str"'),
    ("half.delay()", 'Missing positional argument "x" in call to "delay" of "Task"'),
]
IN_COROUTINES = [
    'Revealed type is "int"',
    'Revealed type is "int"',
    'Argument 1 to "adelay" of "Task" has incompatible type "str"; expected "int"',
]


@pytest.mark.slow
def test_a_type_checker_knows_what_a_call_takes_and_gives(tmp_path: Path) -> None:
    file = tmp_path / "typed_calls.py"
    file.write_text(TASKS + "\n".join(line for line, _ in LINES) + "\n")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        ROOT / "pyproject.toml",
        "--no-error-summary",
        file,
    ]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    said: dict[int, str] = {}
    for report in run.stdout.splitlines():
        _, number, _, text = report.split(":", 3)
        said.setdefault(int(number), text.strip().split("  [")[0])
    first = TASKS.count("\n") + 1
    expected = {first + place: text for place, (_, text) in enumerate(LINES) if text}
    coroutines = [first - 4 + place for place in range(3)]
    assert said == expected | dict(zip(coroutines, IN_COROUTINES, strict=True)), run.stdout
