"""The blog, run: a web server, a stand-in for Akismet, workers by `celeriac up`, visitors; then each comment is looked at.

Exit status 0 only when every comment was judged, and rightly, and no visitor waited for it.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from examples.blog import fake_akismet
from examples.blog.comments import VISITS
from examples.blog.visitors import SLUG

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

#: How long Akismet takes for each answer. No visitor should feel it.
AKISMET_THINKS_S = 1.5
TIMEOUT_S = 60


def main() -> int:
    scratch = Path(tempfile.mkdtemp(prefix="celeriac-blog-"))
    with fake_akismet.running(thinks_s=AKISMET_THINKS_S) as akismet:
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "examples.blog.settings", "BLOG_DATABASE": str(scratch / "blog.sqlite3"),
            "AKISMET_KEY": fake_akismet.KEY, "AKISMET_URL": akismet.url,
        }  # fmt: skip
        make_blog()
        status = run_pool(scratch)
        if status != 0:
            print(f"\ndemo: celeriac up ended with status {status}; logs are in {scratch}")
            return status
        checked, refused = akismet.checks(), akismet.checks(503)
    seconds = json.loads((scratch / "report.json").read_text())
    wrong = differences(judged(), checked, max(seconds))
    for visit in VISITS:
        print(f"{'spam' if visit.is_spam else 'shown':>6}  {visit.name:<16} {visit.comment}")
    print(
        f"\n{len(VISITS)} comments, {len(checked)} answers of {AKISMET_THINKS_S} s from Akismet; {len(refused)} times it was busy and was asked again"
    )
    print(f"slowest answer to a visitor: {max(seconds):.2f} s")
    for line in wrong:
        print(f"WRONG  {line}")
    if wrong:
        print(f"\nThe database and all logs: {scratch}")
        return 1
    shutil.rmtree(scratch)
    return 0


def make_blog() -> None:
    """A database with one entry in it."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    from examples.blog.models import Entry

    Entry.objects.create(title="Hello", slug=SLUG, body="The first entry.")


def run_pool(scratch: Path) -> int:
    """`celeriac up` with the visitors beside it, until all is done; its exit status."""
    visitors = [sys.executable, "-m", "examples.blog.visitors", "--report", str(scratch / "report.json")]
    up = ["up", "-f", str((HERE / "pool.yaml").relative_to(ROOT)), "--until-idle", "--plain"]
    details = ["--timeout", str(TIMEOUT_S), "--logs", str(scratch), "--run", shlex.join(visitors)]
    print(f"$ celeriac {shlex.join(up)} --run 'python -m examples.blog.visitors …'", flush=True)
    return subprocess.run([sys.executable, "-m", "celeriac", *up, *details], cwd=ROOT, check=False).returncode


def judged() -> list[tuple[str, bool]]:
    """(comment, whether it is marked as spam), in the order in which they came."""
    from examples.blog.models import Comment

    return list(Comment.objects.order_by("pk").values_list("comment", "is_spam"))


def differences(found: list[tuple[str, bool]], checked: list[str], slowest_s: float) -> list[str]:
    """Each thing that is not as it should be; empty when all is well."""
    wrong = []
    if found != (expected := [(visit.comment, visit.is_spam) for visit in VISITS]):
        wrong.append(f"the comments are {found}, expected {expected}")
    if missed := {visit.comment for visit in VISITS} - set(checked):
        wrong.append(f"never checked: {sorted(missed)}")
    if slowest_s >= AKISMET_THINKS_S:
        wrong.append(f"a visitor waited {slowest_s:.2f} s, as long as Akismet takes")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
