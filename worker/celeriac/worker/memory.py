"""Whether the kernel has killed for memory in this worker's control group (its container, or its service): the group counts."""

from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


class OutOfMemory:
    """A counter that is read, and what it was at the last look. path: of a `memory.events` file; None where there is none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = self._count()

    def killed(self) -> bool:
        """Whether the count of kills has risen since the last call; False where there is no such count."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        if self._path is None:
            return 0
        try:
            lines = self._path.read_text().splitlines()
            return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
        except (OSError, ValueError, IndexError):
            return 0  # no cgroup v2 here


def own_events() -> Path | None:
    """The `memory.events` of the group that this process is in, None without cgroup v2. Source: cgroups(7)."""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    own = next((line.removeprefix("0::") for line in groups if line.startswith("0::")), None)
    return None if own is None else _GROUPS / own.strip("/") / "memory.events"
