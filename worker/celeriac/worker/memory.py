"""Whether the kernel has killed for memory in this container: its cgroup counts."""


class OutOfMemory:
    """A counter that is read, and what it was at the last look."""

    def __init__(self, path: str = "/sys/fs/cgroup/memory.events") -> None:
        self._path = path
        self._seen = self._count()

    def killed(self) -> bool:
        """Whether the count of kills has risen since the last call; False where there is no such count."""
        before, self._seen = self._seen, self._count()
        return self._seen > before

    def _count(self) -> int:
        try:
            with open(self._path) as file:
                return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
        except (OSError, ValueError, IndexError):
            return 0  # no cgroup v2 here
