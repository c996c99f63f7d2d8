"""A child process that a test starts, watches through its log, and signals; it dies with the test run.

`Child` is the one way by which tests and benchmarks start anything: servers, workers, clients.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: Runs the command in place of itself, after asking Linux to kill it when the process that started it is gone.
#: A `preexec_fn` would do the same, but Python warns about it once threads run.
_TIED = (
    "import ctypes, os, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, 9)\n"
    "os.execvp(sys.argv[1], sys.argv[1:])\n"
)


class Child:
    """A started process with its output in `log`.

    Start it in the main thread: Linux counts the end of the starting *thread* as the parent's end.

    env      added to the environment of this process; a value of None removes the name.
    talks    its standard input and output are pipes (`process.stdin`, `process.stdout`); the log has its errors.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        talks: bool = False,
    ) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        merged = {**os.environ, **(env or {})}
        with log.open("ab") as output:
            self.offset = output.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-E", "-c", _TIED, *self.command],
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else output,
                stderr=output,
                env={name: value for name, value in merged.items() if value is not None},
                cwd=cwd,
                start_new_session=True,  # Ctrl-C goes to the test run, which ends its children in its own order
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while it runs; negative: the signal that ended it."""
        return self.process.poll()

    def text(self) -> str:
        """What it has written since it started."""
        return self.log.read_bytes()[self.offset :].decode(errors="replace")

    def wait_for(self, words: str, *, timeout_s: float = 20.0) -> str:
        """Its output once it contains `words`. Raises AssertionError with the output when it ends, or never says so."""
        wait_until(
            lambda: words in self.text() or self.returncode is not None,
            timeout_s=timeout_s,
            what=f"{words!r} in {self.log}",
        )
        output = self.text()
        if words not in output:
            raise AssertionError(
                f"{self.command} ended with {self.returncode} before it said {words!r}:\n{output[-4000:]}"
            )
        return output

    def wait(self, *, timeout_s: float = 20.0) -> int:
        """Its exit code. Raises AssertionError with the output when it does not end in time."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.command} still ran after {timeout_s} s:\n{self.text()[-4000:]}") from None

    def send(self, signum: signal.Signals) -> None:
        if self.returncode is None:
            self.process.send_signal(signum)

    def terminate(self, *, timeout_s: float = 20.0) -> int:
        """Its exit code after SIGTERM."""
        self.send(signal.SIGTERM)
        return self.wait(timeout_s=timeout_s)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Its own children, if it leaves any, die with its session."""
        if self.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wait_until(
    condition: Callable[[], object], *, timeout_s: float = 20.0, what: str = "the condition", every_s: float = 0.02
) -> None:
    """Return as soon as `condition()` is true. Raises AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s in vain for {what}")
        time.sleep(every_s)
