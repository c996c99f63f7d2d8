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
    started_at = time.monotonic()
    status, story = run_pool(options, scratch)
    if status != 0:
        _explain(status, scratch)
        return status
    took_s = time.monotonic() - started_at

    print(f"\nchecking the totals against a serial run over {len(paths)} files", flush=True)
    report = check.add_up(json.loads((scratch / "ledger.json").read_text()))
    expected = check.serial_run(paths)
    wrong = check.differences(report, expected)
    pool = story["pools"]["default/indexer"]
    if pool["final_replicas"] != 0:
        wrong.append(f"workers left: {pool['final_replicas']}, expected 0")
    print(summary(report, expected, story, took_s))
    for line in wrong:
        print(f"WRONG  {line}")
    if wrong:
        print(f"\nThe ledger, and the logs of operator, workers and producer: {scratch}")
        return 1
    shutil.rmtree(scratch)
    return 0


def run_pool(options: argparse.Namespace, scratch: Path) -> tuple[int, Mapping[str, Any]]:
    """Run `celeriac up` until all is done: its exit status, and the story it wrote."""
    producer = [sys.executable, "-m", "examples.indexer.submit", "--ledger", str(scratch / "ledger.json")]
    producer += ["--files", str(options.files)] if options.files is not None else []
    up = ["up", "-f", str((HERE / "pool.yaml").relative_to(ROOT)), "--until-idle"]
    details = ["--timeout", str(TIMEOUT_S), "--logs", str(scratch), "--summary", str(scratch / "story.json")]
    details += ["--run", shlex.join(producer)] + (["--plain"] if options.plain else [])
    print(f"$ celeriac {shlex.join(up)} --run 'python -m examples.indexer.submit …'", flush=True)
    # Ctrl-C is for `celeriac up`, which drains its workers; we wait for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = subprocess.call([sys.executable, "-m", "celeriac", *up, *details], cwd=ROOT)
    story_file = scratch / "story.json"
    story = json.loads(story_file.read_text()) if story_file.exists() else {}
    if status == 0 and story["outcome"] == "interrupted":
        status = 130
    return status, story


def summary(report: check.Report, expected: check.Expected, story: Mapping[str, Any], took_s: float) -> str:
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
        ("took", f"{took_s:.1f} s", ""),
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
