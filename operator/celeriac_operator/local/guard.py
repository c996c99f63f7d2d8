"""A small process that ends what local mode started when local mode itself is killed and can end nothing any more."""

import logging
import subprocess
import sys

log = logging.getLogger("celeriac_operator.local")

#: Its whole program. It learns of process groups by lines, `+ pid` and `- pid`; the end of its input is the end of us.
_PROGRAM = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
groups = set()
for line in sys.stdin:
    sign, pid = line.split()
    (groups.add if sign == "+" else groups.discard)(int(pid))
def tell(number):
    for pid in list(groups):
        try:
            os.killpg(pid, number)
        except OSError:
            groups.discard(pid)
tell(signal.SIGTERM)
for _ in range(100):
    time.sleep(0.1)
    tell(0)
    if not groups:
        break
tell(signal.SIGKILL)
"""


class Guard:
    """Knows every process group that runs. Use `start` first and `stop` last, when all of them have ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """From now on this group is ended with us."""
        self._tell(f"+ {group}\n")

    def forget(self, group: int) -> None:
        """It has ended: its number may soon be somebody else's."""
        self._tell(f"- {group}\n")

    def stop(self) -> None:
        """End it. Groups it still knows are told to go."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except OSError as error:
            log.warning("the guard process is gone (%s): what runs would outlive a kill of `celeriac up`", error)
            self._process.stdin.close()
            self._process.wait()
            self._process = None
