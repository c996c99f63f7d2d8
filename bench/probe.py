"""How fast this machine is at each moment: a fixed loop of about a millisecond, every 80 ms, on one CPU each.

On a shared machine even the CPU time of the same work varies, up to twofold. `Probe.slowness(since, until)` is the mean
CPU time of the loop in that span over that of the least disturbed tenth of the whole run: 1.0 undisturbed, 1.5 means
that everything took half as long again. Rates times it, CPU seconds over it, are what the undisturbed machine would do.
"""

import os
import statistics
import sys
import time
from pathlib import Path

from processes import Child


def _loop() -> int:
    total = 0
    for number in range(40_000):
        total += number & 7
    return total


def main(cpu: int, path: Path) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})
    os.nice(5)  # its own CPU time is what counts, so it may well wait for those who are measured
    with path.open("w", buffering=1) as log:
        while True:
            before = time.thread_time()
            _loop()
            log.write(f"{time.monotonic()} {time.thread_time() - before}\n")
            time.sleep(0.08)


class Probe:
    """One probing process a CPU, until `close()`."""

    def __init__(self, folder: Path) -> None:
        cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        self.paths = [folder / f"probe{cpu}" for cpu in cpus]
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.children = [
            Child([sys.executable, __file__, str(cpu), file], log=folder / "probe.log", env=path)
            for cpu, file in zip(cpus, self.paths, strict=True)
        ]

    def slowness(self, since: float, until: float) -> float:
        """Mean over the CPUs; monotonic seconds. 1.0 when nothing was logged in the span."""
        ratios = []
        for path in self.paths:
            samples = [tuple(map(float, line.split())) for line in path.read_text().splitlines()[:-1]]
            inside = [cpu_s for at, cpu_s in samples if since <= at <= until]
            if inside:
                undisturbed = sorted(cpu_s for _, cpu_s in samples)[len(samples) // 10]
                ratios.append(statistics.mean(inside) / undisturbed)
        return statistics.mean(ratios) if ratios else 1.0

    def undisturbed_ms(self) -> float:
        """CPU milliseconds of the loop in the least disturbed tenth of the run."""
        samples = [float(line.split()[1]) for path in self.paths for line in path.read_text().splitlines()[:-1]]
        return 1000 * sorted(samples)[len(samples) // 10] if samples else 0.0

    def close(self) -> None:
        for child in self.children:
            child.kill()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
