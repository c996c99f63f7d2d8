"""Environments with other libraries than ours: `.venv-compat` with the real Celery, `.venv-bench-…` with bench's other peers.

Each is made once from its pins, `requirements/<name>.txt`, and again when they change. `python tests/support/compat_env.py`
makes the first and prints its Python; `celery_python()` is the same for tests and bench.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class CannotMake(Exception):
    """The environment could not be made; the message holds what pip said."""


def celery_python() -> Path:
    """The Python that has Celery. Takes some ten seconds the first time, nothing after that. Raises CannotMake."""
    return environment_python("compat")


def environment_python(name: str) -> Path:
    """The Python of `.venv-<name>`, made from `requirements/<name>.txt` unless it stands. Raises CannotMake."""
    environment = ROOT / f".venv-{name}"
    pins = ROOT / "requirements" / f"{name}.txt"
    python = environment / "bin" / "python"
    stamp = environment / "made-from"
    wanted = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    # Two test runs at once must not write into one environment.
    with pins.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        shutil.rmtree(environment, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(environment)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--no-deps", "-r", str(pins)])
        stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotMake(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-600:]}")


if __name__ == "__main__":
    print(celery_python())
