"""The environment with the real Celery: `.venv-compat` beside `.venv`, made once and again when its pins change.

`python tests/support/compat_env.py` makes it and prints its Python; `celery_python()` is the same for tests and bench.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-compat"
PINS = ROOT / "requirements" / "compat.txt"


class CannotMake(Exception):
    """The environment could not be made; the message holds what pip said."""


def celery_python() -> Path:
    """The Python that has Celery. Takes some ten seconds the first time, nothing after that. Raises CannotMake."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / "made-from"
    wanted = hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()
    # Two test runs at once must not write into one environment.
    with PINS.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(ENVIRONMENT)])
        _run(
            [
                str(python),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "-r",
                str(PINS),
            ]
        )
        stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotMake(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-600:]}")


if __name__ == "__main__":
    print(celery_python())
