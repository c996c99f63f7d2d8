"""The ledger beside a serial run of the same functions: is every task accounted for, do the totals agree?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.indexer import library


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a serial run finds. unreadable: files that are no Python. retries: how often the storage refuses in all."""

    totals: library.Counts
    files: int
    folders: int
    size_bytes: int
    unreadable: frozenset[str]
    retries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A ledger added up. Waits are seconds from sent to started, in ascending order, of files that needed no retry."""

    submitted: int
    succeeded: int
    failed: int
    lost: int
    retried: int
    totals: library.Counts
    summaries: int
    summarised_files: int
    summarised_bytes: int
    unreadable: frozenset[str]
    unexpected: tuple[str, ...]
    waits_s: Sequence[float]
    summaries_per_s: float


def serial_run(paths: Sequence[str]) -> Expected:
    """Do it all here, one file after the other."""
    totals = library.Counts()
    unreadable = set()
    for path in paths:
        try:
            totals += library.count(library.read(path, attempt=library.refusals(path)), path)
        except (SyntaxError, ValueError):
            unreadable.add(path)
    return Expected(
        totals=totals,
        files=len(paths),
        folders=len(library.folders(paths)),
        size_bytes=library.size(paths),
        unreadable=frozenset(unreadable),
        retries=sum(library.refusals(path) for path in paths),
    )


def add_up(ledger: Iterable[Mapping[str, Any]]) -> Report:
    """The ledger's entries, counted."""
    entries = list(ledger)
    done = [entry for entry in entries if entry["state"] == "SUCCESS"]
    files = [entry["result"] for entry in done if entry["task"] == "index_file"]
    summaries = [entry["result"] for entry in done if entry["task"] == "publish_summary"]
    failed = [entry for entry in entries if entry["state"] == "FAILURE"]
    unreadable = [entry for entry in failed if entry["result"]["type"] == "NotPython"]
    waits = [
        entry["result"]["started_at"] - entry["sent_at"]
        for entry in done
        if entry["task"] == "index_file" and entry["result"]["retries"] == 0
    ]
    return Report(
        submitted=len(entries),
        succeeded=len(done),
        failed=len(failed),
        lost=len(entries) - len(done) - len(failed),
        retried=sum(result["retries"] for result in files)
        + sum(int(entry["result"]["args"][2]) for entry in unreadable),
        totals=sum((library.Counts(**_counts(result)) for result in files), library.Counts()),
        summaries=len(summaries),
        summarised_files=sum(result["files"] for result in summaries),
        summarised_bytes=sum(result["size_bytes"] for result in summaries),
        unreadable=frozenset(entry["argument"] for entry in unreadable),
        unexpected=tuple(f"{entry['argument']}: {entry['result']}" for entry in failed if entry not in unreadable),
        waits_s=sorted(waits),
        summaries_per_s=_rate(sorted(result["started_at"] for result in summaries)),
    )


def differences(report: Report, expected: Expected) -> list[str]:
    """Each thing that is not as it should be; empty when all is well."""
    pairs = {
        "tasks submitted": (report.submitted, expected.files + expected.folders),
        "tasks lost": (report.lost, 0),
        "functions": (report.totals.functions, expected.totals.functions),
        "classes": (report.totals.classes, expected.totals.classes),
        "lines": (report.totals.lines, expected.totals.lines),
        "summaries": (report.summaries, expected.folders),
        "files in the summaries": (report.summarised_files, expected.files),
        "bytes in the summaries": (report.summarised_bytes, expected.size_bytes),
        "retries": (report.retried, expected.retries),
        "files that are no Python": (sorted(report.unreadable), sorted(expected.unreadable)),
    }
    wrong = [f"{name}: {found}, expected {wanted}" for name, (found, wanted) in pairs.items() if found != wanted]
    return wrong + [f"failed for another reason: {reason}" for reason in report.unexpected]


def percentile(ascending: Sequence[float], percent: int) -> float:
    """The value that `percent` of the values do not exceed; 0 of none."""
    return ascending[min(len(ascending) - 1, len(ascending) * percent // 100)] if ascending else 0.0


def _counts(result: Mapping[str, Any]) -> dict[str, int]:
    return {name: result[name] for name in ("functions", "classes", "lines")}


def _rate(started_at: Sequence[float]) -> float:
    """Starts a second between the first and the last."""
    span_s = started_at[-1] - started_at[0] if len(started_at) > 1 else 0.0
    return (len(started_at) - 1) / span_s if span_s else 0.0
