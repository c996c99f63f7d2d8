"""Everything under examples/ runs, as its README says, with nothing set up beside it."""

import ast
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from examples.blog import fake_akismet
from examples.blog.akismet import Akismet, AkismetError
from examples.blog.comments import VISITS
from examples.blog.demo import AKISMET_THINKS_S, differences
from examples.indexer import check, library

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

#: Folder -> how a user runs it, on a small part of its input.
RUNS = {"blog": ["examples.blog.demo"], "indexer": ["examples.indexer.demo", "--plain", "--files", "150"]}


def test_each_example_is_run_by_the_test_below() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(RUNS)


@pytest.mark.parametrize("example", sorted(RUNS))
def test_each_module_of_an_example_takes_part_in_its_run(example: str) -> None:
    files = [path for path in (EXAMPLES / example).iterdir() if path.suffix in {".py", ".yaml"}]
    everything = "\n".join(path.read_text() for path in files)

    used = set(re.findall(rf"examples\.{example}\.(\w+)", everything)) | {RUNS[example][0].rpartition(".")[2]}
    for names in re.findall(rf"from examples\.{example} import (.+)", everything):
        used |= set(re.findall(r"\w+", names))

    assert {path.stem for path in files if path.suffix == ".py"} - used == set()


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted(RUNS))
def test_an_example_runs_by_itself_to_its_good_end(example: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
    environment |= {"TMPDIR": str(tmp_path)}

    run = subprocess.run(
        [sys.executable, "-m", *RUNS[example]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert list(tmp_path.iterdir()) == [], "files were left behind"


PATHS = library.source_files()[:40]


def ledger_of_a_good_run() -> list[dict[str, Any]]:
    """What the producer would write had every task run well."""
    ledger = []
    for path in PATHS:
        retries = library.refusals(path)
        counts = library.count(library.read(path, attempt=retries), path)
        result = {
            "functions": counts.functions, "classes": counts.classes, "lines": counts.lines,
            "path": path, "started_at": 2.0, "retries": retries,
        }  # fmt: skip
        ledger.append({"task": "index_file", "argument": path, "sent_at": 1.0, "state": "SUCCESS", "result": result})
    for folder, members in library.folders(PATHS).items():
        result = {"folder": folder, "files": len(members), "size_bytes": library.size(members), "started_at": 3.0}
        ledger.append(
            {"task": "publish_summary", "argument": folder, "sent_at": 1.0, "state": "SUCCESS", "result": result}
        )
    return ledger


def test_the_indexer_parses_again_when_another_threads_traceback_disturbed_the_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parse, calls = ast.parse, itertools.count()

    def disturbed(source: bytes, filename: str) -> ast.Module:
        if next(calls) == 0:
            raise SystemError("AST constructor recursion depth mismatch (before=27, after=39)")
        return parse(source, filename=filename)

    monkeypatch.setattr(library.ast, "parse", disturbed)

    assert library.count(b"def f(): ...\n", "f.py") == library.Counts(functions=1, lines=1)


def test_the_indexers_check_is_content_with_a_good_run() -> None:
    report = check.add_up(ledger_of_a_good_run())

    assert check.differences(report, check.serial_run(PATHS)) == []
    assert report.waits_s[0] == 1.0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param({"state": "LOST", "result": None}, "tasks lost: 1", id="a task of which nothing is heard"),
        pytest.param(
            {"state": "FAILURE", "result": {"type": "OSError", "args": []}},
            "another reason",
            id="an unexpected failure",
        ),
        pytest.param(
            {"state": "FAILURE", "result": {"type": "NotPython", "args": ["", "", "0"]}},
            "no Python",
            id="a wrong refusal",
        ),
    ],
)
def test_the_indexers_check_notices(change: dict[str, Any], complaint: str) -> None:
    ledger = ledger_of_a_good_run()
    ledger[0] |= change

    wrong = check.differences(check.add_up(ledger), check.serial_run(PATHS))

    assert any(complaint in line for line in wrong), wrong


@pytest.mark.parametrize(
    ("key", "blog", "valid"),
    [(fake_akismet.KEY, "http://blog", True), ("another-key", "http://blog", False), (fake_akismet.KEY, "", False)],
)
def test_akismet_is_asked_whether_the_key_is_good(key: str, blog: str, valid: bool) -> None:
    with fake_akismet.running() as service:
        assert Akismet(key, blog, service=service.url).verify_key() is valid


def test_akismet_is_asked_whether_a_comment_is_spam() -> None:
    said = {"user_ip": "192.0.2.1", "comment_content": "Grüße & more"}
    with fake_akismet.running() as service:
        akismet = Akismet(fake_akismet.KEY, "http://blog", service=service.url)

        found = [akismet.comment_check(**said, comment_author=name) for name in ("George", "viagra-test-123")]

        assert found == [False, True]
        assert service.checks() == ["Grüße & more"] * 2


def test_akismet_that_cannot_answer_is_an_error_of_its_own() -> None:
    with fake_akismet.running() as service:
        akismet = Akismet(fake_akismet.KEY, "http://blog", service=service.url)
        stranger = Akismet("another-key", "http://blog", service=service.url)

        with pytest.raises(AkismetError, match="503"):
            akismet.comment_check(user_ip=None, comment_content="busy")
        assert akismet.comment_check(user_ip=None, comment_content="busy") is False
        with pytest.raises(AkismetError, match="'invalid', neither true nor false"):
            stranger.comment_check(user_ip=None, comment_content="hello")
    with pytest.raises(AkismetError, match="refused"):
        akismet.verify_key()


GOOD = [(visit.comment, visit.is_spam) for visit in VISITS]
ALL = [visit.comment for visit in VISITS]


@pytest.mark.parametrize(
    ("found", "checked", "slowest_s", "complaint"),
    [
        pytest.param(GOOD, ALL, 0.1, "", id="all is well"),
        pytest.param([(text, False) for text in ALL], ALL, 0.1, "the comments are", id="spam that is shown"),
        pytest.param(GOOD, ALL[1:], 0.1, "never checked: ['Well said.']", id="a comment that nobody looked at"),
        pytest.param(GOOD, ALL, AKISMET_THINKS_S, "a visitor waited", id="a visitor who waited for the filter"),
    ],
)
def test_the_blogs_check_notices(
    found: list[tuple[str, bool]], checked: list[str], slowest_s: float, complaint: str
) -> None:
    wrong = differences(found, checked, slowest_s)

    assert [complaint in line for line in wrong] == ([True] if complaint else []), wrong
