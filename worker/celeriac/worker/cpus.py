"""CPUs that this process may use: its affinity, and the quota of its cgroup, of version 1 or 2."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cpus(cgroups: Path = CGROUPS) -> int:
    """How many, at least 1: what `--concurrency auto` means. A quota of one and a half CPUs counts as two."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(_read(cgroups / "cpu.max"))
    if quota is None:
        version_1 = cgroups / "cpu"
        quota = cpu_quota(f"{_read(version_1 / 'cpu.cfs_quota_us')} {_read(version_1 / 'cpu.cfs_period_us')}")
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def cpu_quota(text: str) -> float | None:
    """CPUs of "<quota> <period>" in microseconds; None for "max", -1 (version 1's word for it) or what is no such text."""
    try:
        quota, period = map(int, text.split())
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
