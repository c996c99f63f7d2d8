"""How many CPUs a worker may use."""

import os
from pathlib import Path

import pytest

from celeriac.worker.cpus import cpu_quota, usable_cpus


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("200000 100000", 2.0), ("150000 100000", 1.5), ("50000 100000", 0.5), ("max 100000", None), ("-1 100000", None),
        ("", None), ("x", None), ("1 0", None),
    ],
)  # fmt: skip
def test_a_quota_is_read_as_cpus(text: str, quota: float | None) -> None:
    assert cpu_quota(text) == quota


@pytest.mark.parametrize(
    "files", [{"cpu.max": "50000 100000"}, {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}]
)
def test_half_a_cpu_is_one_in_either_version_of_cgroups(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cpus(tmp_path) == 1


@pytest.mark.parametrize("files", [{}, {"cpu.max": "max 100000"}, {"cpu.max": "99000000 100000"}])
def test_without_a_quota_or_with_a_large_one_the_affinity_counts(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert usable_cpus(tmp_path) == len(os.sched_getaffinity(0))
