"""Every block of the tasks guide's code in one project, as its reader would have it: run by a real worker with Redis and, where it is about
models and views, by a real Django with SQLite. The blocks, and what was changed in them, are in tests/support/guide_blocks.py.

The client is a process of its own: `ask` runs code there.
"""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from examples.blog import fake_akismet
from guide_blocks import BLOCKS, SURROUNDINGS, Block
from missing import give_up
from processes import Child, wait_until
from servers import Missing, RedisServer

CELERIAC = Path(sys.executable).with_name("celeriac")

Ask = Callable[[str], Any]


def test_each_block_has_a_test() -> None:
    assert [block.test for block in BLOCKS if not callable(globals().get(block.test))] == []
    assert len(BLOCKS) == len({block.source for block in BLOCKS}) == 35


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project."""
    folder = tmp_path_factory.mktemp("guide")
    for block in BLOCKS:
        if block.file:
            _write(folder / block.file, block.above + block.source)
    for file, source in SURROUNDINGS.items():
        _write(folder / file, source)
    return folder


def _write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(source)


@pytest.fixture(scope="module")
def akismet() -> Iterator[fake_akismet.FakeAkismet]:
    with fake_akismet.running() as server:
        yield server


@pytest.fixture(scope="module")
def environment(folder: Path, akismet: fake_akismet.FakeAkismet) -> Iterator[dict[str, str]]:
    try:
        server = RedisServer()
    except Missing as missing:
        give_up(str(missing))
    try:
        server.start()
        yield {
            "BROKER": server.url, "BACKEND": server.url.replace("/0", "/1"), "DATABASE": str(folder / "db.sqlite3"),
            "DJANGO_SETTINGS_MODULE": "project_settings", "AKISMET_URL": akismet.url, "AKISMET_KEY": fake_akismet.KEY,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }  # fmt: skip
    finally:
        server.close()


#: A client of the project: runs the code of each line that it reads, and writes what its `answer` is.
CLIENT = """
import json, sys
from project_app import app
app.import_tasks()
for line in sys.stdin:
    names = {"app": app}
    exec(json.loads(line), names)
    print(json.dumps(names["answer"]), flush=True)
app.close()
"""


@pytest.fixture(scope="module")
def ask(folder: Path, environment: dict[str, str]) -> Iterator[Ask]:
    """Run code in a client of the project; what its `answer` is."""
    command = [sys.executable, "-W", "error", "-c", CLIENT]
    client = Child(command, log=folder / "client.log", cwd=folder, env=environment, talks=True)
    wires = client.process.stdin, client.process.stdout
    assert all(wires)

    def run(code: str) -> Any:
        wires[0].write(json.dumps(textwrap.dedent(code)).encode() + b"\n")
        wires[0].flush()
        said = wires[1].readline()
        assert said, client.text()[-3000:]
        return json.loads(said)

    try:
        run(
            "from django.core.management import call_command\nanswer = call_command('migrate', run_syncdb=True, verbosity=0)"
        )
        yield run
        wires[0].close()
        assert client.wait() == 0, client.text()
    finally:
        client.kill()
        wires[0].close()
        wires[1].close()


@pytest.fixture(scope="module")
def worker(ask: Ask, folder: Path, environment: dict[str, str]) -> Iterator[Child]:
    """The guide's: the defaults of its day, two processes."""
    child = Child(
        [CELERIAC, "-A", "project_app", "worker", "-c", "2", "-l", "info", "-n", "worker1@test"], log=folder / "worker.log", cwd=folder,
        env=environment,
    )  # fmt: skip
    child.wait_for("ready")
    yield child
    assert child.terminate() == 0, child.text()


def in_session(block: Block, environment: dict[str, str], folder: Path) -> str:
    """What a Python session, in a module called `tasks`, says to a block that does not print what the guide says; empty when it does."""
    code = (
        "import doctest, sys, types, project_app\n"
        "sys.modules['tasks'] = module = types.ModuleType('tasks')\n"
        "above, source = sys.argv[1:]\n"
        "exec(above, vars(module))\n"
        "test = doctest.DocTestParser().get_doctest(source, vars(module), 'guide', None, 0)\n"
        "doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, block.above, block.source], cwd=folder / "project",
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join([str(folder), str(folder / "project"), *sys.path])},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if not block.file and block.section in {"Task names", "Automatic naming and relative imports"}]
)  # fmt: skip
def test_a_session_prints_what_the_guide_says(block: Block, environment: dict[str, str], folder: Path) -> None:
    assert in_session(block, environment, folder) == ""


@pytest.mark.usefixtures("worker")
def test_a_task_creates_a_user(ask: Ask) -> None:
    users = ask("""
        import users, users_json
        from django.contrib.auth.models import User
        for module, name in ((users, "george"), (users_json, "ringo")):
            module.create_user.delay(name, password="secret").get(timeout=20)
        answer = [list(User.objects.order_by("pk").values_list("username", flat=True)), users_json.create_user.serializer]
    """)

    assert users == [["george", "ringo"], "json"]


def test_what_is_printed_goes_to_the_log(ask: Ask, worker: Child) -> None:
    task_id = ask("import context; answer = context.add.delay(2, y=3).id")

    worker.wait_for(f"Executing task id {task_id!r}, args: [2] kwargs: {{'y': 3}}")


def test_a_task_s_logger_writes_to_the_log(ask: Ask, worker: Child) -> None:
    total = ask("import adding; answer = adding.add.delay(20, 3).get(timeout=20)")

    [line] = [line for line in worker.text().splitlines() if "Adding 20 + 3" in line]
    assert total == 23
    assert "INFO" in line
    assert "adding.add" in line


def test_a_task_is_retried_and_its_exception_is_the_tombstone(ask: Ask, worker: Child) -> None:
    found = ask("""
        import time, statuses
        well = statuses.send_twitter_status.delay("oauth", "hello")
        badly = statuses.send_twitter_status.delay("wrong", "again")
        exceeded = statuses.send_twitter_status.apply_async(("wrong", "again"), retries=3)
        well.get(timeout=20)
        error = exceeded.get(timeout=20, propagate=False)
        while badly.state != "RETRY":
            time.sleep(0.02)
        answer = [well.state, exceeded.state, repr(error), repr(badly.result), badly.ready()]
        badly.revoke()
    """)

    assert found == ["SUCCESS", "FAILURE", "LoginError('wrong')", "LoginError('wrong')", False]
    assert "tweeted hello" in worker.text()


@pytest.mark.usefixtures("worker")
def test_a_countdown_stands_above_the_default_delay(ask: Ask) -> None:
    state, waits, default = ask("""
        import time, delays
        result = delays.add.delay(1, 2)
        while result.state != "RETRY":
            time.sleep(0.02)
        answer = [result.state, repr(result.result), delays.add.default_retry_delay]
        result.revoke()
    """)

    assert (state, waits, default) == ("RETRY", "OSError('of the test')", 1800)


@pytest.mark.usefixtures("worker")
def test_a_worker_and_a_client_that_import_a_module_differently_do_not_fit(
    ask: Ask, folder: Path, environment: dict[str, str]
) -> None:
    """The guide's `project.myapp` and `myapp`."""
    outer = ask("from project.myapp.tasks import add; answer = add.name")
    inner = subprocess.run(
        [sys.executable, "-c", "import inner_settings, myapp.tasks; print(myapp.tasks.add.name)"], cwd=folder / "project",
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    error = ask("""
        from project.myapp.tasks import add
        from celeriac.exceptions import NotRegistered
        error = add.delay(1, 2).get(timeout=20, propagate=False)
        answer = [isinstance(error, NotRegistered), str(error)]
    """)

    assert (outer, inner) == ("project.myapp.tasks.add", "myapp.tasks.add")
    assert error[0] is True
    assert "project.myapp.tasks.add" in error[1]


@pytest.mark.usefixtures("worker")
def test_other_decorators_stand_below_task(ask: Ask) -> None:
    assert ask("import decorated; answer = [decorated.add.delay(1, 2).get(timeout=20), decorated.add.name]") == [31, "decorated.add"]  # fmt: skip


@pytest.mark.usefixtures("worker")
def test_a_state_of_the_task_s_own_is_seen_by_who_waits(ask: Ask) -> None:
    seen = ask("""
        import uploads
        seen = []
        result = uploads.upload_files.delay(["a", "b"])
        result.get(timeout=20, on_message=lambda record: seen.append([record["status"], record["result"]]))
        answer = seen
    """)

    # Between two looks states may pass unseen: the last one is forgotten when the next one comes.
    assert seen[-1] == ["SUCCESS", None]
    assert all(state in (["PROGRESS", {"current": number, "total": 2}] for number in range(2)) for state in seen[:-1])


@pytest.mark.usefixtures("worker")
def test_a_decorated_function_and_a_class_do_roughly_the_same(ask: Ask) -> None:
    found = ask("""
        import behind_function, behind_class
        from celeriac.task import Task
        answer = [
            [task.name, isinstance(task, Task), task.delay(2, 2).get(timeout=20), task(2, 2)] for task in (behind_function.add, behind_class.add)
        ]
    """)

    assert found == [["behind_function.add", True, 4, 4], ["behind_class.AddTask", True, 4, 4]]


@pytest.mark.usefixtures("worker")
def test_a_task_keeps_state_between_requests(ask: Ask) -> None:
    found = ask("""
        import authentication
        from celeriac import registry
        authenticate = registry.tasks[authentication.NaiveAuthenticateServer.name]
        words = [("george", "password"), ("george", "x"), ("ringo", "x")]
        answer = [authenticate.delay(*pair).get(timeout=20) for pair in words]
    """)

    assert found == [True, False, False]


@pytest.mark.usefixtures("worker")
def test_a_task_connects_once(ask: Ask) -> None:
    found = ask("""
        import connecting
        asked = [connecting.which.delay() for _ in range(8)]
        answer = [result.get(timeout=20) for result in asked]
    """)

    connections = {tuple(connection) for connection in found}
    assert len(connections) == len({pid for pid, _ in connections}), "a process has connected twice"


def test_an_abstract_base_is_told_of_each_return(ask: Ask, worker: Child) -> None:
    task_id = ask("import debugging; result = debugging.add.delay(1, 2); result.get(timeout=20); answer = result.id")

    worker.wait_for(f"Task returned: <Request: {task_id}")


def test_the_registry_lists_what_is_built_in(ask: Ask, environment: dict[str, str], folder: Path) -> None:
    [block] = [block for block in BLOCKS if block.test == "test_the_registry_lists_what_is_built_in"]
    assert in_session(block, environment, folder) == ""

    names = ask("from celeriac import registry; answer = sorted(registry.tasks)")

    of_the_guide = {
        "celery.delete_expired_task_meta",
        "celery.task.http.HttpDispatchTask",
        "celery.map_async",
        "celery.ping",
    }
    assert of_the_guide <= set(names)
    assert "celery.execute_remote" not in names


@pytest.mark.usefixtures("worker")
def test_an_abstract_task_is_not_registered_and_what_inherits_from_it_is(ask: Ask) -> None:
    found = ask("""
        import inheriting
        from celeriac import registry
        answer = ["unregistered.MyTask" in registry.tasks, registry.tasks["inheriting.Inheriting"].delay().get(timeout=20)]
    """)

    assert found == [False, "run"]


def test_an_ignored_result_is_not_stored(ask: Ask, worker: Child) -> None:
    task_id = ask("import ignoring; answer = ignoring.mytask.delay().id")
    worker.wait_for("something was done")
    wait_until(lambda: worker.text().count(task_id) >= 2)  # received, succeeded

    assert ask(f"answer = app.AsyncResult({task_id!r}).state") == "PENDING"


@pytest.mark.usefixtures("worker")
def test_rate_limits_are_off(ask: Ask) -> None:
    found = ask("""
        import limited
        asked = [limited.seldom.delay() for _ in range(5)]
        answer = [[result.get(timeout=20) for result in asked], app.conf.worker_disable_rate_limits]
    """)

    assert found == [["often"] * 5, True]


@pytest.mark.usefixtures("worker")
def test_to_wait_for_another_task_is_refused(ask: Ask) -> None:
    found = ask("""
        import pages_bad
        error = pages_bad.update_page_info.delay("u").get(timeout=20, propagate=False)
        answer = [type(error).__name__, str(error)]
    """)

    assert found[0] == "RuntimeError"
    assert "inside a task" in found[1] or "within a task" in found[1]


@pytest.mark.usefixtures("worker")
def test_callbacks_do_the_same_without_waiting(ask: Ask) -> None:
    found = ask("""
        import time, pages_good
        from articles.models import PageInfo
        pages_good.update_page_info.delay("good")
        until = time.monotonic() + 20
        while not (found := list(PageInfo.objects.values_list("url", "info"))) and time.monotonic() < until:
            time.sleep(0.02)
        answer = found
    """)

    assert found == [["good", "PAGE OF GOOD"]]


def test_a_model_is_no_argument(ask: Ask) -> None:
    error = ask("""
        import abbreviations_by_model
        from articles.models import Article
        Article.objects.create(id=102, title="t", body="of MyCorp")
        article = Article.objects.get(id=102)
        try:
            abbreviations_by_model.expand_abbreviations.delay(article)
        except Exception as error:
            answer = [type(error).__name__, str(error)]
    """)

    assert error[0] in {"EncodeError", "TypeError"}, error
    assert "Article" in error[1]


@pytest.mark.usefixtures("worker")
def test_an_article_is_fetched_where_the_task_runs(ask: Ask) -> None:
    """Somebody else's change, made while the task waits, is there afterwards."""
    found = ask("""
        from abbreviations import expand_abbreviations
        from articles.models import Article
        article = Article.objects.create(title="t", body="of MyCorp")
        Article.objects.filter(id=article.id).update(title="a better one")
        expand_abbreviations.delay(article.id).get(timeout=20)
        other = Article.objects.create(title="t", body="by MyCorp")
        article_id = other.id
        expand_abbreviations(article_id)
        answer = list(Article.objects.filter(id__in=[article.id, other.id]).order_by("id").values_list("title", "body"))
    """)

    assert found == [["a better one", "of My Corporation"], ["t", "by My Corporation"]]


@pytest.mark.usefixtures("worker")
def test_a_task_that_is_sent_before_the_commit_finds_nothing(ask: Ask) -> None:
    """The view runs in a transaction that is still open when the worker looks."""
    state, error, articles = ask("""
        from django.db import transaction
        from celeriac import signals
        from articles.models import Article
        from articles.views_racing import create_article
        sent = []

        @signals.after_task_publish.connect
        def note(headers=None, **named):
            sent.append(headers["id"])

        with transaction.atomic():
            create_article(None)
            result = app.AsyncResult(sent[0])
            error = result.get(timeout=20, propagate=False)
        answer = [result.state, type(error).__name__, Article.objects.filter(body="of MyCorp").exists()]
    """)

    assert (state, error, articles) == ("FAILURE", "DoesNotExist", True)


@pytest.mark.usefixtures("worker")
def test_a_task_that_is_sent_after_the_commit_finds_the_article(ask: Ask) -> None:
    found = ask("""
        from celeriac import signals
        from articles.models import Article
        from articles.views import create_article
        sent = []

        @signals.after_task_publish.connect
        def note(headers=None, **named):
            sent.append(headers["id"])

        create_article(None)
        result = app.AsyncResult(sent[0])
        result.get(timeout=20)
        answer = [result.state, Article.objects.order_by("-id").first().body]
    """)

    assert found == ["SUCCESS", "of My Corporation"]


def test_a_comment_is_saved_at_once_and_found_to_be_spam_later(
    ask: Ask, worker: Child, akismet: fake_akismet.FakeAkismet
) -> None:
    found = ask("""
        import time
        from django.test import Client
        from articles.models import Entry
        from blog.models import Comment
        from celeriac import signals
        sent = []

        @signals.after_task_publish.connect
        def note(headers=None, **named):
            sent.append(headers["id"])

        Entry.objects.create(slug="hello")
        web = Client()
        form = web.get("/hello/comment/").content.decode()
        answers = []
        for name in ("George", "viagra-test-123"):
            said = {"name": name, "email_address": "g@example.com", "comment": "from " + name}
            answers.append(web.post("/hello/comment/", said).headers["Location"])
        values = [app.AsyncResult(task_id).get(timeout=20) for task_id in sent]
        answer = ["email_address" in form, answers, values, list(Comment.objects.order_by("id").values_list("name", "is_spam"))]
    """)

    assert found == [True, ["/hello/", "/hello/"], [False, True], [["George", False], ["viagra-test-123", True]]]
    assert sorted(akismet.checks()) == ["from George", "from viagra-test-123"]
    assert {form["user_ip"] for question, form, _ in akismet.asked if question == "comment-check"} == {"127.0.0.1"}
    assert "Running spam filter for comment 1" in worker.text()
