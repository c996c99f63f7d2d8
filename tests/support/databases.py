"""Private real databases for results in SQL: PostgreSQL and MariaDB on free ports, which a test may kill and start again.

`with server.database() as url` is a new, empty database, gone afterwards. Slow to make (a second or two), so a run has one of each.
"""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from servers import Missing, Server


class SqlServer(Server):
    """A database server without a password, for this machine alone."""

    every_s = 0.05

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)
        self._made = False

    @abstractmethod
    def connect(self) -> Any:
        """A DB-API connection with autocommit, to the server's own database. Raises the driver's errors."""

    @abstractmethod
    def _make(self) -> None:
        """Fill the data directory."""

    @abstractmethod
    def database_url(self, name: str) -> str:
        """The database's URL as result_backend has it."""

    @property
    def url(self) -> str:
        return self.database_url(self.name)

    def run(self, statement: str) -> list[Any]:
        """The rows of a statement, in the server's own database."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def _prepare(self) -> dict[str, str]:
        if not self._made:
            self._make()
            self._made = True
        return {}

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new database; the server is started again first if a test left it down."""
        self.revive()
        name = f"test{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        yield self.database_url(name)

    def _answers(self) -> bool:
        try:
            self.run("SELECT 1")
        except self._errors:
            return False
        return True

    @property
    @abstractmethod
    def _errors(self) -> type[Exception]:
        """The driver's base of errors."""


class PostgresServer(SqlServer):
    """PostgreSQL, which does not run as root: there, as the user postgres."""

    name = "postgres"

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        program = shutil.which("initdb", path=os.pathsep.join([*map(str, reversed(found)), os.environ.get("PATH", "")]))
        if program is None:
            raise Missing("initdb of PostgreSQL is not here (Debian: apt-get install postgresql)")
        self.bin = Path(program).resolve().parent
        self._other_user: list[str] = []
        super().__init__()
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.directory, user.pw_uid, user.pw_gid)
            # The signal asked for before is forgotten when the user changes.
            self._other_user = [
                "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=SIGKILL",
            ]  # fmt: skip

    def _make(self) -> None:
        command = [self.bin / "initdb", "-D", self.directory / "data", "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(
            [*self._other_user, *command, "-E", "UTF8", "--locale=C"], check=True, capture_output=True, cwd=self.directory
        )  # fmt: skip

    def _command(self) -> list[str]:
        options = {
            "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
            "max_connections": 60, "shared_buffers": "32MB",
        }  # fmt: skip
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [*self._other_user, str(self.bin / "postgres"), "-D", str(self.directory / "data"), *flags]

    def close(self) -> None:
        # Killed, it would leave processes of its own that still write while the files are removed.
        if self.child is not None:
            self.resume()
            self.child.send(signal.SIGINT)  # a fast shutdown: it waits for no client
            self.child.wait(timeout_s=30)
            self.child = None
        super().close()

    def database_url(self, name: str) -> str:
        return f"db+postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def connect(self) -> Any:
        import psycopg

        return psycopg.connect(f"postgresql://postgres@127.0.0.1:{self.port}/postgres", autocommit=True)

    @property
    def _errors(self) -> type[Exception]:
        import psycopg

        return psycopg.Error


class MariaServer(SqlServer):
    """MariaDB, which stands for MySQL too."""

    name = "mysql"

    def __init__(self) -> None:
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
        server, install = shutil.which("mariadbd", path=path), shutil.which("mariadb-install-db", path=path)
        if server is None or install is None:
            raise Missing("mariadbd is not here (Debian: apt-get install mariadb-server)")
        self.program, self._install = server, install
        super().__init__()

    def _make(self) -> None:
        (self.directory / "tmp").mkdir()
        done = subprocess.run(
            [
                self._install, "--no-defaults", f"--datadir={self.directory / 'data'}", "--auth-root-authentication-method=normal",
                "--skip-test-db", *self._own,
            ],
            check=False, capture_output=True, text=True, cwd=self.directory,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(
                f"mariadb-install-db ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}"
            )

    @property
    def _own(self) -> list[str]:
        """A folder for temporary tables: a server that starts removes all that it finds, and in /tmp they may be another's."""
        return [f"--tmpdir={self.directory / 'tmp'}", *(["--user=root"] if os.geteuid() == 0 else [])]

    def _command(self) -> list[str]:
        return [
            self.program, "--no-defaults", f"--datadir={self.directory / 'data'}", f"--port={self.port}", "--bind-address=127.0.0.1",
            f"--socket={self.directory / 'socket'}", f"--pid-file={self.directory / 'pid'}", "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=32M", "--character-set-server=utf8mb4", "--skip-name-resolve", *self._own,
        ]  # fmt: skip

    def database_url(self, name: str) -> str:
        return f"db+mysql+pymysql://root@127.0.0.1:{self.port}/{name}"

    def connect(self) -> Any:
        import pymysql

        return pymysql.connect(host="127.0.0.1", port=self.port, user="root", database="mysql", autocommit=True)

    @property
    def _errors(self) -> type[Exception]:
        import pymysql

        return pymysql.err.MySQLError
