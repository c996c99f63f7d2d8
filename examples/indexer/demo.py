"""What `make demo` starts: `celeriac up` with the producer beside it, then the check, then a summary.

Exit status 0 only when every task is accounted for, the totals are those of a serial run, and no worker is left.
"""

import argparse
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.indexer import check, library

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

#: The demo ends by itself before this, whatever happens.
TIMEOUT_S = 75


def main() -> int:
    parser = argparse.ArgumentParser(description="Index the standard library with workers that come and go.")
    parser.add_argument("--files", type=int, default=None, help="only so many files (default: all)")
    parser.add_argument("--plain", action="store_true", help="lines in place of the live view")
    options = parser.parse_args()

    paths = library.source_files()[: options.files]
    scratch = Path(tempfile.mkdtemp(prefix="celeriac-demo-"))
    pool = start_pool(options, scratch)
    while pool.poll() is None and not (scratch / "ledger.json").exists():
        time.sleep(0.1)
    # While the workers, idle now, are drained and removed, one process does it all again.
    expected = check.serial_run(paths) if (scratch / "ledger.json").exists() else None
    status, story = end_of(pool, scratch)
    if status != 0 or expected is None:
        _explain(status, scratch)
        return status or 1

    report = check.add_up(json.loads((scratch / "ledger.json").read_text()))
    wrong = check.differences(report, expected)
    left = story["pools"]["default/indexer"]["final_replicas"]
    if left != 0:
        wrong.append(f"workers left: {left}, expected 0")
    print(summary(report, expected, story))
    for line in wrong:
        print(f"WRONG  {line}")
    if wrong:
        print(f"\nThe ledger, and the logs of operator, workers and producer: {scratch}")
        return 1
    shutil.rmtree(scratch)
    return 0


def start_pool(options: argparse.Namespace, scratch: Path) -> subprocess.Popen[bytes]:
    """Start `celeriac up` with the producer beside it; it ends by itself when all is done."""
    producer = [sys.executable, "-m", "examples.indexer.submit", "--ledger", str(scratch / "ledger.json")]
    producer += ["--files", str(options.files)] if options.files is not None else []
    up = ["up", "-f", str((HERE / "pool.yaml").relative_to(ROOT)), "--until-idle"]
    details = ["--timeout", str(TIMEOUT_S), "--logs", str(scratch), "--summary", str(scratch / "story.json")]
    details += ["--run", shlex.join(producer)] + (["--plain"] if options.plain else [])
    print(f"$ celeriac {shlex.join(up)} --run 'python -m examples.indexer.submit …'", flush=True)
    # Ctrl-C is for `celeriac up`, which drains its workers; we wait for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return subprocess.Popen([sys.executable, "-m", "celeriac", *up, *details], cwd=ROOT)


def end_of(pool: subprocess.Popen[bytes], scratch: Path) -> tuple[int, Mapping[str, Any]]:
    """Wait for `celeriac up`: its exit status, and the story it wrote."""
    status = pool.wait()
    story_file = scratch / "story.json"
    story = json.loads(story_file.read_text()) if story_file.exists() else {}
    if status == 0 and story["outcome"] == "interrupted":
        status = 130
    return status, story


def summary(report: check.Report, expected: check.Expected, story: Mapping[str, Any]) -> str:
    """The demo's last words."""
    wait = {percent: check.percentile(report.waits_s, percent) for percent in (50, 95)}
    killed = len(story["pods_killed_while_busy"])
    rows = [
        ("submitted", f"{report.submitted}", f"{expected.files} files, {expected.folders} summaries, in one burst"),
        ("succeeded", f"{report.succeeded}", ""),
        ("retried", f"{report.retried}", "the storage was busy"),
        ("failed", f"{report.failed}", f"{len(report.unreadable)} files are no Python, as in the serial run"),
        ("lost", f"{report.lost}", ""),
        ("peak replicas", f"{story['peak_replicas']}", f"from 0 and back to 0; {killed} killed with a task in them"),
        ("wait p50 / p95", f"{wait[50]:.1f} / {wait[95]:.1f} s", "from sent to started, files that needed no retry"),
        ("summaries", f"{report.summaries_per_s:.1f} a second", "limited to 10 a second over all workers"),
        ("took", f"{story['seconds']:.1f} s", "from no worker to no worker"),
    ]
    lines = [f"{name:>16}  {value:<16} {remark}".rstrip() for name, value, remark in rows]
    lines += ["", f"{'':>16}  {'workers':>9} {'serial run':>11}"]
    for name in ("functions", "classes", "lines"):
        lines.append(f"{name:>16}  {getattr(report.totals, name):>9} {getattr(expected.totals, name):>11}")
    lines.append(f"{'bytes':>16}  {report.summarised_bytes:>9} {expected.size_bytes:>11}")
    return "\n".join(["", *lines, ""])


def _explain(status: int, scratch: Path) -> None:
    """Say why there is nothing to check, with the end of the log that tells more."""
    reasons = {
        3: f"the work was not done within {TIMEOUT_S} s",
        4: "the producer failed",
        5: "a worker was killed with a task in it",
        130: "interrupted",
    }
    print(f"\ndemo: {reasons.get(status, f'celeriac up ended with status {status}')}; logs are in {scratch}")
    for name in ("run.log", "operator.log") if status not in (1, 130) else ():
        log = scratch / name
        if log.exists() and log.stat().st_size:
            print(f"--- the end of {name}")
            print("\n".join(log.read_text(errors="replace").splitlines()[-12:]))


if __name__ == "__main__":
    sys.exit(main())
