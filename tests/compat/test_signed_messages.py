"""Signed messages between the two libraries: each runs what a trusted client of the other has signed, and nothing else."""

import contextlib
from pathlib import Path

import pytest
from certificates import identity
from libraries import Client, Place, start_worker
from processes import wait_until

from celeriac import Celeriac
from celeriac.broker.deadletters import DeadLetter, dead_letters


def sign_as(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, store: Path, *, trusted: bool = True) -> None:
    """What is started from now on signs as `name`."""
    who = identity(folder, name, store=store if trusted else None)
    for variable, path in (("KEY", who.key), ("CERTIFICATE", who.certificate), ("STORE", store)):
        monkeypatch.setenv(f"SIGNED_{variable}", str(path))


@pytest.mark.parametrize(("client_library", "worker_library"), [("celery", "celeriac"), ("celeriac", "celery")])
def test_a_worker_of_one_library_runs_what_a_client_of_the_other_has_signed(
    place: Place, client_library: str, worker_library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    identity(tmp_path, "client", store=store)  # the worker reads the store when it starts
    with contextlib.ExitStack() as stack:
        sign_as(monkeypatch, tmp_path, "worker", store)
        flags = ("-P", "prefork", "-c", "1") if worker_library == "celeriac" else ()
        stack.callback(start_worker(worker_library, place, tmp_path / "worker.log", *flags).kill)
        for variable, name in (("KEY", "client.key"), ("CERTIFICATE", "client.pem")):
            monkeypatch.setenv(f"SIGNED_{variable}", str(tmp_path / name))
        client = Client(client_library, place, tmp_path / "client.log")
        stack.callback(client.close)

        assert client.get(client.send("add", 2, 3))["value"] == 5
        assert client.get(client.send("flaky", 1))["value"] == 1
        assert client.get(client.send("echo", "t\u00fcr", kwargs={"k": [None]}))["value"] == [
            ["t\u00fcr"],
            {"k": [None]},
        ]
        assert client.get(client.send("reserve", "lamp", 3))["raised"]["name"] == "OutOfStock"
        assert client.ping() is not None


def test_what_a_stranger_has_signed_or_nobody_is_a_dead_letter(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    ledger = tmp_path / "ledger"
    with contextlib.ExitStack() as stack:
        sign_as(monkeypatch, tmp_path, "worker", store)
        worker = start_worker("celeriac", place, tmp_path / "worker.log", "-P", "prefork", "-c", "1")
        stack.callback(worker.kill)
        sign_as(monkeypatch, tmp_path, "mallory", store, trusted=False)
        stranger = Client("celery", place, tmp_path / "stranger.log")
        stack.callback(stranger.close)
        monkeypatch.delenv("SIGNED_KEY")
        nobody = Client("celeriac", place, tmp_path / "nobody.log")
        stack.callback(nobody.close)

        sent = {
            stranger.send("mark", str(ledger), 1): "untrusted",
            nobody.send("mark", str(ledger), 2): "content_disallowed",
        }

        app = Celeriac("looks", broker=place.broker, set_as_current=False)
        stack.callback(app.close)

        def found() -> list[DeadLetter]:
            return [letter for letter in dead_letters(app.broker_address(), "celery") if letter.id in sent]

        wait_until(lambda: len(found()) == 2, what="two dead letters")
        letters = found()
        assert {letter.id: letter.reason for letter in letters} == sent
        assert any("DE mallory" in letter.detail for letter in letters)
        assert not ledger.exists()
        assert worker.returncode is None
