"""The command line: what it takes, what it prints, and how it exits. 0 done, 1 it failed, 2 wrong use, 69 nobody answers."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Broker
from click.testing import CliRunner, Result
from processes import Child
from servers import ValkeyServer, free_port

from celeriac import Celeriac
from celeriac.broker.consumer import Settled
from celeriac.cli import find_app, main
from celeriac.exceptions import WorkerLostError
from celeriac.wire.result import ResultMeta

SHOP = """\
import time
from celeriac import Celeriac

app = Celeriac("shop")

@app.task(name="shop.add")
def add(x, y):
    return x + y

@app.task(name="shop.fail")
def fail():
    raise KeyError("no such price")
"""


def celeriac(*arguments: str, **given: Any) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False, **given)


@pytest.fixture
def url(valkey_server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Valkey as broker and result store, named by the environment."""
    monkeypatch.setenv("CELERIAC_BROKER_URL", valkey_server.url)
    monkeypatch.setenv("CELERIAC_RESULT_BACKEND", valkey_server.url)
    return valkey_server.url


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = path


# -- help and wrong use


def test_help_names_every_command_and_celerys_flags() -> None:
    text = celeriac("--help").output

    for command in ("worker", "call", "result", "inspect", "status", "purge", "up"):
        assert f"\n  {command} " in text
    assert "..." not in text.partition("Commands:")[2]  # each first sentence fits
    flags = celeriac("worker", "-h").output
    for flag in ("-Q", "-P", "-c", "-l", "-n", "-E"):
        assert f"{flag}, --" in flags


def test_the_version_is_the_librarys() -> None:
    import celeriac as library

    assert library.__version__ in celeriac("--version").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["fly"], "fly", id="no such command"),
        pytest.param(["worker"], "celeriac -A MODULE[:NAME]", id="a worker without an app"),
        pytest.param(["-A", "no_such_shop", "worker"], "no module 'no_such_shop'", id="an app that is not there"),
        pytest.param(
            ["worker", "-A", "shop"], "before the command: celeriac -A … worker", id="the app after the command"
        ),
        pytest.param(["call"], "NAME", id="a call without a name"),
        pytest.param(["call", "t", "-a", "[1"], "--args is not JSON", id="args that are no JSON"),
        pytest.param(["call", "t", "-a", "{}"], "--args must be a JSON list", id="args that are no list"),
        pytest.param(["call", "t", "-k", "[]"], "--kwargs must be a JSON object", id="kwargs that are no object"),
        pytest.param(["call", "t", "--countdown", "soon"], "soon", id="a countdown that is no number"),
        pytest.param(["--workdir", "/no/such/folder", "status"], "/no/such/folder", id="a folder that is not there"),
        pytest.param(["worker", "-D"], "systemd, a Deployment", id="a daemon"),
        pytest.param(["worker", "--uid", "0"], "User= of a systemd unit, runAsUser of a pod", id="another user"),
        pytest.param(
            ["worker", "--pool-start-method", "spawn"], "worker_process_init", id="children that are not forked"
        ),
        pytest.param(
            ["worker", "-B", "--scheduler", "django"], "--scheduler django: there is one", id="another scheduler"
        ),
        pytest.param(["beat", "-n", "b1"], "the setting beat_http_port", id="remote control of a beat"),
        pytest.param(
            ["multi", "start", "3", "-A", "shop"], "there is no celeriac multi: a command is one worker", id="multi"
        ),
        pytest.param(["events", "--dump"], "there is no celeriac events: watch with Flower", id="events"),
        pytest.param(["purge", "-Q", "a,b", "-X", "b,a"], "no queue is left to empty", id="nothing to purge"),
        pytest.param(["call", "t", "--eta", "soon"], "'soon' is not a time in ISO 8601", id="a time that is none"),
        pytest.param(
            ["call", "t", "--expires", "soon"],
            "not a number of seconds or a time in ISO 8601",
            id="an end that is none",
        ),
    ],
)
def test_wrong_use_is_said_and_exits_with_2(arguments: list[str], said: str, folder: Path) -> None:
    result = celeriac(*arguments)

    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize("command", [["call", "t"], ["inspect", "ping"], ["status"], ["purge", "-f"], ["result", "a"]])
def test_a_broker_of_an_unknown_kind_is_said_without_its_password(command: list[str], folder: Path) -> None:
    url = "carrier-pigeon://me:secret@host"

    result = celeriac("-b", url, "--result-backend", url, *command)

    assert result.exit_code == 1
    assert "carrier-pigeon" in result.output
    assert "secret" not in result.output


@pytest.mark.parametrize("command", [["inspect", "ping"], ["status"], ["purge", "-f"], ["result", "a"]])
def test_a_broker_that_is_away_exits_with_69(command: list[str], folder: Path) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"

    result = celeriac("-b", url, "--result-backend", url, *command)

    assert result.exit_code == 69
    assert "cannot reach the" in result.output
    assert "secret" not in result.output


def test_a_broker_that_was_typed_is_read_and_written_whatever_the_settings_say(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("READ", "WRITE"):
        monkeypatch.setenv(f"CELERIAC_BROKER_{name}_URL", f"redis://127.0.0.1:{free_port()}/0")

    assert celeriac("call", "t").exit_code == 69  # the variables hold, whatever CELERIAC_BROKER_URL says

    assert celeriac("-b", url, "call", "t").exit_code == 0
    assert "1" in celeriac("-b", url, "purge", "-f").output


def test_settings_that_cannot_work_are_a_sentence(folder: Path) -> None:
    (folder / "broken_shop.py").write_text(
        "from celeriac import Celeriac\napp = Celeriac('x', accept_content=['jsno'])\n"
    )

    result = celeriac("-A", "broken_shop", "worker")

    assert result.exit_code == 1
    assert "accept_content: 'jsno'" in result.output


# -- the app


@pytest.mark.parametrize(
    ("files", "path"),
    [
        pytest.param({"m_app.py": "app = {}"}, "m_app", id="app"),
        pytest.param({"m_celery.py": "celery = {}"}, "m_celery", id="celery"),
        pytest.param({"m_only.py": "shop = {}"}, "m_only", id="the only one"),
        pytest.param({"m_named.py": "a = {}\nb = 7"}, "m_named:a", id="named with a colon"),
        pytest.param({"m_dotted.py": "a = {}\nb = Celeriac('other', set_as_current=False)"}, "m_dotted.a", id="named with a dot"),
        pytest.param({"m_two.py": "celery = 7\napp = {}"}, "m_two", id="app before what is none"),
        pytest.param({"p_pkg/__init__.py": "", "p_pkg/celery.py": "app = {}"}, "p_pkg", id="a package's celery module, as Django's"),
        pytest.param({"p_deep/__init__.py": "", "p_deep/shop.py": "app = {}"}, "p_deep.shop", id="a module of a package"),
    ],
)  # fmt: skip
def test_an_app_is_found_where_celerys_users_put_it(files: dict[str, str], path: str, folder: Path) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        head = "from celeriac import Celeriac\n"
        (folder / name).write_text(head + text.format("Celeriac('shop', set_as_current=False)"))

    app = find_app(path)

    assert isinstance(app, Celeriac)
    assert app.main == "shop"


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        pytest.param("x = 7", "m_none", "holds 0 Celeriac apps", id="no app"),
        pytest.param("a, b = (Celeriac(name, set_as_current=False) for name in 'ab')", "m_many", "holds 2 Celeriac apps", id="two apps"),
        pytest.param("x = 7", "m_seven:x", "m_seven.x is no Celeriac app", id="no app by that name"),
        pytest.param("x = 7", "m_gone:y", "m_gone.y is missing", id="nothing by that name"),
        pytest.param("import no_such_library", "m_import", "No module named 'no_such_library'", id="a module that cannot be imported"),
    ],
)  # fmt: skip
def test_an_app_that_is_not_found_is_said_with_what_was_looked_for(
    text: str, path: str, said: str, folder: Path
) -> None:
    (folder / f"{path.partition(':')[0]}.py").write_text(f"from celeriac import Celeriac\n{text}\n")

    result = celeriac("-A", path, "status")

    assert result.exit_code == 2
    assert said in result.output


# -- report


def test_a_report_may_be_json_and_keeps_secrets_to_itself(folder: Path) -> None:
    (folder / "told_shop.py").write_text(
        "from datetime import timedelta\nfrom celeriac import Celeriac\n"
        "app = Celeriac('x', broker='redis://me:secret@h/0', result_expires=timedelta(days=2), task_routes=print,"
        " worker_state_db='f', task_annotations={'*': {'rate_limit': '1/s'}}, shop_prices={('pear', 1): 2})\n"
    )

    text, found = (
        celeriac("-A", "told_shop", "report"),
        json.loads(celeriac("-A", "told_shop", "report", "--json").stdout),
    )

    assert "secret" not in text.output + json.dumps(found)
    assert found["software"].keys() == {"celeriac", "kombu", "redis", "amqp", "py"}
    assert f"celeriac:{found['software']['celeriac']} kombu:{found['software']['kombu']}" in text.output
    assert (found["broker"], found["profile"]) == ("redis://me:**@h/0", "celery")
    assert found["settings"]["task_annotations"] == {"*": {"rate_limit": "1/s"}}
    assert found["settings"]["task_routes"] == "<built-in function print>"  # what JSON cannot say
    assert found["settings"]["shop_prices"] == {"('pear', 1)": 2}
    [note] = found["notes"]
    assert "worker_state_db has no effect" in note


# -- call, result, purge


def test_a_call_is_sent_with_all_it_was_given_and_its_id_printed(url: str) -> None:
    result = celeriac(
        "call", "shop.add", "-a", "[1]", "-k", '{"y": 2}', "-Q", "q", "--priority", "6", "--countdown", "0", "--expires", "60"
    )  # fmt: skip

    [claimed] = Broker(kind="valkey", url=url, queue="q").consumer().claim(1)
    assert (result.exit_code, result.output.strip()) == (0, claimed.headers["id"])
    assert (claimed.headers["task"], claimed.headers["argsrepr"], claimed.headers["kwargsrepr"]) == (
        "shop.add",
        "[1]",
        "{'y': 2}",
    )
    assert claimed.step == 6
    assert claimed.headers["expires"]
    assert json.loads(celeriac("call", "shop.add", "--json").output).keys() == {"id"}


def test_a_call_takes_celerys_words_for_when_and_where(url: str) -> None:
    consumer = Broker(kind="valkey", url=url, queue="q").consumer()  # declares queue and exchange

    result = celeriac(
        "call", "shop.add", "--eta", "2020-01-31T12:00:00Z", "--expires", "2090-01-31T12:00:00Z", "--serializer", "yaml",
        "--exchange", "q", "--routing-key", "q",
    )  # fmt: skip

    [claimed] = consumer.claim(1)
    assert (claimed.headers["id"], claimed.content_type) == (result.output.strip(), "application/x-yaml")
    assert (claimed.headers["eta"], claimed.headers["expires"]) == ("2020-01-31T12:00:00+00:00", "2090-01-31T12:00:00+00:00")  # fmt: skip


def test_a_result_of_a_task_with_a_store_of_its_own_is_found_by_the_tasks_name(
    url: str, folder: Path, tmp_path: Path
) -> None:
    own = f"db+sqlite:///{tmp_path}/own.db"
    (folder / "own_store.py").write_text(
        f"from celeriac import Celeriac\napp = Celeriac('x')\n@app.task(name='own', backend={own!r})\ndef own(): ...\n"
    )
    with Celeriac("y", set_as_current=False) as app:
        task = app.task(backend=own)(print)
        assert task.backend.store([(ResultMeta("a1", "SUCCESS", 7, None), None)]) == [None]

    assert celeriac("-A", "own_store", "result", "a1").output.strip() == "a1 is PENDING"
    assert celeriac("-A", "own_store", "result", "a1", "--task", "own").output.strip() == "7"
    assert "no task 'owm'" in celeriac("-A", "own_store", "result", "a1", "--task", "owm").output


def test_a_call_that_waits_in_vain_exits_with_1(url: str) -> None:
    result = celeriac("call", "shop.add", "--wait", "0.1")

    assert result.exit_code == 1
    assert "is PENDING" in result.output


@pytest.mark.parametrize(
    ("meta", "code", "printed", "as_json"),
    [
        pytest.param(("SUCCESS", [1, "two"]), 0, "[1, 'two']", [1, "two"], id="success"),
        pytest.param(("SUCCESS", None), 0, "", None, id="nothing"),
        pytest.param(("STARTED", {"pid": 1}), 1, "a1 is STARTED", {"pid": 1}, id="started"),
        pytest.param(
            ("FAILURE", {"exc_type": "KeyError", "exc_message": ["k"], "exc_module": "builtins"}), 1, "'k'", "KeyError('k')", id="failure"
        ),
    ],
)  # fmt: skip
def test_a_result_is_printed_and_told_by_the_exit_code(
    url: str, meta: Any, code: int, printed: str, as_json: Any
) -> None:
    with Celeriac("x", broker=url, backend=url, set_as_current=False) as app:
        assert app.backend.store([(ResultMeta("a1", *meta, "the traceback"), None)]) == [None]

    result, in_json = celeriac("result", "a1"), celeriac("result", "a1", "--json")

    assert (result.exit_code, result.output.strip()) == (code, printed)
    assert (in_json.exit_code, json.loads(in_json.output)) == (code, {"id": "a1", "state": meta[0], "result": as_json})
    assert celeriac("result", "a1", "--traceback").output.strip() == "the traceback"


def test_a_result_that_nobody_knows_is_pending(url: str) -> None:
    result = celeriac("result", "nobody")

    assert (result.exit_code, result.output.strip()) == (1, "nobody is PENDING")


def test_purge_asks_first_and_then_deletes_what_waits(url: str) -> None:
    broker = Broker(kind="valkey", url=url, queue="celery")
    with broker.closing:
        broker.publish(1, 2)
        broker.publish(3, queue="other")

        refused = celeriac("purge", input="n\n")
        assert refused.exit_code == 1
        assert "celery" in refused.output
        assert broker.depth().ready == 2

        assert celeriac("purge", input="y\n").exit_code == 0
        assert (broker.depth().ready, broker.depth("other").ready) == (0, 1)
        assert json.loads(celeriac("purge", "-f", "-Q", "celery, other", "-X", "other", "--json").output) == {
            "celery": 0
        }
        assert json.loads(celeriac("purge", "-f", "-Q", "celery, other", "--json").output) == {"celery": 0, "other": 1}


def test_without_workers_nobody_answers(url: str) -> None:
    result = celeriac("inspect", "ping", "-t", "0.1")

    assert (result.exit_code, result.output.strip()) == (69, "no worker answered")


# -- a real worker


@pytest.fixture
def worker(url: str, tmp_path: Path) -> Iterator[Child]:
    (tmp_path / "shop.py").write_text(SHOP)
    command = [
        sys.executable,
        "-m",
        "celeriac",
        "-A",
        "shop",
        "worker",
        "-P",
        "threads",
        "-c",
        "2",
        "-l",
        "info",
        "-n",
        "w1@here",
    ]
    child = Child(command, log=tmp_path / "worker.log", cwd=tmp_path)
    try:
        child.wait_for("w1@here ready")
        yield child
    finally:
        child.kill()


def test_a_worker_is_called_asked_and_ended_from_the_command_line(worker: Child) -> None:
    added = celeriac("call", "shop.add", "-a", "[2, 3]", "--wait", "10")
    failed = celeriac("call", "shop.fail", "--wait", "10")
    unknown = celeriac("call", "shop.gone", "--wait", "10")
    ping = celeriac("inspect", "ping")
    one = celeriac("inspect", "registered", "-d", "w1@here", "--json")
    status = celeriac("status")
    another = celeriac("status", "-d", "w2@here", "-t", "0.2")
    code = worker.terminate()

    assert (added.exit_code, added.output.strip()) == (0, "5")
    assert (failed.exit_code, failed.output.strip()) == (1, "'no such price'")
    assert (unknown.exit_code, "shop.gone" in unknown.output) == (1, True)
    assert (ping.exit_code, ping.output.strip()) == (0, "w1@here: pong")
    assert json.loads(one.output) == {"w1@here": ["shop.add", "shop.fail"]}
    assert (status.exit_code, status.output.strip()) == (0, "w1@here: OK")
    assert another.exit_code == 69
    assert code == 0
    text = worker.text()
    assert "queues celery, pool threads with 2 slot(s), 2 task type(s)" in text
    assert "succeeded in" in text
    assert "KeyError: 'no such price'" in text
    assert "w1@here ended" in text


def test_a_solo_worker_whose_body_does_not_end_ends_with_its_grace_and_its_task_has_failed(
    url: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(
        SHOP + '\n@app.task(name="shop.nap")\ndef nap():\n    print("napping", flush=True)\n    time.sleep(60)\n'
    )
    child = Child(
        [sys.executable, "-m", "celeriac", "-A", "shop", "worker", "-P", "solo", "-l", "info", "--pidfile", "worker.pid"],
        log=tmp_path / "log", cwd=tmp_path, env={"CELERIAC_WORKER_SHUTDOWN_GRACE_S": "0.3"},
    )  # fmt: skip
    client = Celeriac("client", broker=url, backend=url, set_as_current=False)
    try:
        called = client.send_task("shop.nap")
        child.wait_for("napping")
        assert (tmp_path / "worker.pid").read_text() == f"{child.pid}\n"
        assert child.terminate(timeout_s=3) == 0
        assert not (tmp_path / "worker.pid").exists()  # although it did not wait for the body
        with pytest.raises(WorkerLostError, match="cut off by the shutdown"):
            called.get(timeout=2)
    finally:
        child.kill()
        client.close()


@pytest.mark.parametrize("arguments", [["--help"], ["worker", "--help"], ["--version"]], ids=" ".join)
def test_the_command_runs_as_a_program(arguments: list[str], tmp_path: Path) -> None:
    child = Child([Path(sys.executable).parent / "celeriac", *arguments], log=tmp_path / "log")

    assert child.wait() == 0
    assert "celeriac" in child.text()


def test_logs_may_be_json(url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    child = Child(
        [sys.executable, "-m", "celeriac", "-A", "shop", "worker", "-P", "solo", "-l", "info", "--log-json"],
        log=tmp_path / "log", cwd=tmp_path, env={"PYTHONPATH": os.environ.get("PYTHONPATH")},
    )  # fmt: skip
    try:
        child.wait_for(" ready")
        assert child.terminate() == 0
    finally:
        child.kill()

    entries = [json.loads(line) for line in child.text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= entry.keys() for entry in entries)


# -- dead letters


def test_dead_letters_are_listed_shown_sent_back_and_purged(url: str) -> None:
    broker = Broker(kind="valkey", url=url, queue="celery")
    sent = broker.publish(1, 2)
    consumer = broker.consumer()
    death = {"reason": "unknown_task", "detail": "nobody knows it", "at": 7.0, "by": "w1", "starts": 0}
    consumer.settle([Settled(delivery, death=death) for delivery in consumer.claim(2)])
    consumer.close()
    first, second = (message.id for message in sent)

    listed = celeriac("dead-letter", "list")
    assert listed.exit_code == 0
    assert f"1970-01-01 00:00:07Z  {first}" in listed.output
    assert "unknown_task: nobody knows it" in listed.output
    assert [letter["id"] for letter in json.loads(celeriac("dead-letter", "list", "--json").stdout)] == [first, second]
    assert json.loads(celeriac("dead-letter", "show", second).output)[0]["reason"] == "unknown_task"

    assert celeriac("dead-letter", "replay").exit_code == 2  # which?
    assert celeriac("dead-letter", "replay", second).output == "1 dead letter(s) sent back to celery\n"
    assert [delivery.headers["id"] for delivery in broker.consumer().claim(5)] == [second]
    assert celeriac("dead-letter", "replay", "--reason", "malformed").exit_code == 1

    assert celeriac("dead-letter", "purge", "-f").output == "celery: 1 dead letter(s) deleted\n"
    missing = celeriac("dead-letter", "show", first)
    assert (missing.exit_code, f"no dead letter with the id {first}" in missing.output) == (1, True)
