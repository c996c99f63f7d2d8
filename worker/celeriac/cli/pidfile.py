"""A file with the id of the process that runs, for who supervises it by such files."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click


@contextmanager
def written(path: str | None) -> Iterator[Callable[[], None]]:
    """The process id in the file while this runs; what removes it, for who leaves without coming back here. path: None or empty: no file.

    A file that names no live process is written over. Raises click.ClickException where another process lives, and when the file
    cannot be read or written.
    """
    if not path:
        yield lambda: None
        return
    pidfile, own = Path(path), os.getpid()
    try:
        pid = _pid_in(pidfile)
        if pid is not None and pid != own and _lives(pid):
            raise click.ClickException(f"--pidfile {pidfile}: the process {pid} that it names is running")
        pidfile.write_text(f"{own}\n")
    except OSError as error:
        raise click.ClickException(f"--pidfile {pidfile} cannot be written: {error.strerror}") from error

    def remove() -> None:
        if os.getpid() == own and _pid_in(pidfile) == own:  # not a child of it; nobody else has it meanwhile
            pidfile.unlink(missing_ok=True)

    try:
        yield remove
    finally:
        remove()


def _pid_in(pidfile: Path) -> int | None:
    try:
        content = pidfile.read_bytes().strip()
    except FileNotFoundError:
        return None
    return int(content) or None if content.isdigit() else None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # only whether it could be
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
