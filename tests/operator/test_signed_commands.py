"""The operator's commands and a real worker that demands signatures, over Redis and RabbitMQ: what is heeded, and what is passed over."""

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kombu
import pytest
from certificates import Identity, identity
from libraries import Place, start_worker
from processes import Child, wait_until
from servers import free_port

from celeriac.broker.mailbox import Mailbox
from celeriac.broker.signing import Signer, register, unregister
from celeriac.exceptions import BrokerUnavailable
from celeriac.wire import control
from celeriac.wire.event import Heartbeat, heartbeat_to_wire
from celeriac_operator.errors import CannotSign, SetupError
from celeriac_operator.fleet.brokers import BrokerTarget, connect
from celeriac_operator.fleet.control import Commands, Routes, end, keep_drained, lift_drain, routed
from celeriac_operator.fleet.ears import Ears
from celeriac_operator.fleet.gaps import unheeded
from celeriac_operator.fleet.heartbeats import Fleet
from celeriac_operator.fleet.match import crews_of, match, pod_samples
from celeriac_operator.fleet.signature import KeyFiles, Lack, Signature, key_files, signing, without_key
from celeriac_operator.resources.records import PodRecord
from celeriac_operator.scaling.drain import unanswered
from celeriac_operator.scaling.memory import Memory
from celeriac_operator.scaling.signals import PodSample

CALLED = ("--signing-key", "--signing-certificate", "--signing-digest")
NODE = "celeriac@test"
PIDBOX = kombu.Exchange("celery.pidbox", "fanout", durable=False, delivery_mode="transient")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    unregister()


@dataclass
class Fleetside:
    """A broker, a worker on it, and the operator's ears and post."""

    place: Place
    folder: Path
    closing: ExitStack
    post: Mailbox
    fleet: Fleet
    port: int = field(default_factory=free_port)

    @property
    def operator(self) -> Identity:
        return Identity(self.folder / "operator.key", self.folder / "operator.pem")

    def start(self, *, signed: bool = True, **env: str) -> Child:
        """A worker that trusts itself and the operator."""
        store = self.folder / "trusted"
        own = identity(self.folder, "worker", store=store)
        identity(self.folder, "operator", store=store)
        keys = {"SIGNED_KEY": own.key, "SIGNED_CERTIFICATE": own.certificate, "SIGNED_STORE": store} if signed else {}
        given = {"CELERIAC_WORKER_HTTP_PORT": str(self.port), "CELERIAC_WORKER_HEARTBEAT_INTERVAL": "0.5", **env}
        worker = start_worker(
            "celeriac", self.place, self.folder / "worker.log", env={**{name: str(path) for name, path in keys.items()}, **given}
        )  # fmt: skip
        self.closing.callback(worker.kill)
        wait_until(lambda: self.beat is not None, what="its heartbeat")
        return worker

    @property
    def beat(self) -> Heartbeat | None:
        """The worker's last one."""
        return next((worker.beat for worker in self.fleet.workers(time.time())), None)

    @property
    def mark(self) -> str:
        return self.beat.drain.id if self.beat and self.beat.drain else ""

    def commands(self, signature: Signature | None = None) -> Commands:
        made = Commands(self.post, signature or self.signature())
        made.know(self.fleet.workers(time.time()))
        return made

    def signature(self) -> Signature:
        return signing(KeyFiles(key=str(self.operator.key), certificate=str(self.operator.certificate)), called=CALLED)

    def refused(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
            found = re.findall(r'celeriac_commands_refused_total\{reason="(\w+)"\} (\S+)', page.read().decode())
        return {reason: float(count) for reason, count in found}

    def log(self, words: str) -> int:
        """How many lines of the worker's log hold these words."""
        return sum(words in line for line in (self.folder / "worker.log").read_text().splitlines())

    def is_passed_over(self, send: Callable[[], None], *, reason: str) -> None:
        """Send something that must be counted as refused, and change nothing."""
        before, state = self.refused()[reason], (self.mark, self.beat.state if self.beat else "")
        send()
        wait_until(lambda: self.refused()[reason] > before, what=f"a command counted as {reason}")
        time.sleep(0.7)  # a heartbeat more
        assert (self.mark, self.beat.state if self.beat else "") == state

    @contextmanager
    def tapped(self) -> Iterator[list[Any]]:
        """What others hear of commands meanwhile: raw messages, as who listens on the broker can record them."""
        heard: list[Any] = []
        with kombu.Connection(self.place.broker) as connection:
            queue = kombu.Queue("tap", PIDBOX, exclusive=True, auto_delete=True, durable=False)
            consumer = kombu.Consumer(connection, [queue], on_message=heard.append, no_ack=True)
            with consumer:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=0.3)  # on Redis kombu subscribes only now
                yield heard
                while not heard:
                    connection.drain_events(timeout=5)

    def replay(self, message: Any) -> None:
        with kombu.Connection(self.place.broker) as connection:
            kombu.Producer(connection, auto_declare=False).publish(
                message.body, exchange=PIDBOX, declare=[PIDBOX], content_type=message.content_type,
                content_encoding=message.content_encoding, headers=message.headers,
            )  # fmt: skip


@pytest.fixture(params=["redis", "rabbitmq"])
def side(request: pytest.FixtureRequest, redis_server: Any, tmp_path: Path) -> Iterator[Fleetside]:
    url = redis_server.url if request.param == "redis" else request.getfixturevalue("rabbitmq").url
    broker = connect(BrokerTarget(url=url))
    fleet = Fleet(started_at=time.time())
    ears = Ears(broker.receiver, fleet, name="test", on_change=lambda: None)
    with ExitStack() as closing:
        closing.callback(broker.close)
        closing.callback(ears.join)
        closing.callback(ears.retire)
        ears.start()
        place = Place(name=request.param, broker=url, backend=redis_server.url.replace("/0", "/1"))
        yield Fleetside(place=place, folder=tmp_path, closing=closing, post=broker.post, fleet=fleet)


def test_a_worker_that_demands_signatures_heeds_the_operators_and_nobody_elses(side: Fleetside) -> None:
    worker = side.start()
    assert side.beat is not None
    assert side.beat.commands == control.SIGNED

    with side.tapped() as recorded:
        keep_drained(side.commands(), mark="m1", nodes=[NODE], epoch=1)
        wait_until(lambda: side.mark == "m1", what="the mark in its heartbeat")
    lift_drain(side.commands(), nodes=[NODE], epoch=1)
    wait_until(lambda: side.mark == "", what="a heartbeat without the mark")

    plain = [
        control.drain(mark="x", epoch=2, ttl_s=60.0, destination=[NODE]),
        control.shutdown(epoch=2, destination=[NODE]),
        control.rate_limit(task="shop.add", per_s=0.01, scope="worker", by="x/y", epoch=2),
    ]
    for command in plain:
        side.is_passed_over(lambda command=command: side.post.send(command), reason="unsigned")  # type: ignore[misc]
        side.is_passed_over(lambda command=command: side.post.send(command), reason="unsigned")  # type: ignore[misc]
        assert side.log(f"the command {command.method} is not signed: give the operator a key") == 1
    side.is_passed_over(lambda: side.replay(recorded[0]), reason="outdated")
    assert side.log("came a second time") == 1

    mallory = identity(side.folder / "elsewhere", "mallory")
    unregister()
    register(Signer(key=str(mallory.key), certificate=str(mallory.certificate)))
    for _ in range(2):
        side.is_passed_over(lambda: side.post.send(plain[0], signed=True), reason="untrusted")
    assert side.log("mallory") == 1

    unregister()
    end(side.commands(), nodes=[NODE], epoch=3)
    assert worker.wait() == 0


def test_the_setting_lets_the_operators_plain_commands_in_and_no_others(side: Fleetside) -> None:
    side.start(CELERIAC_SECURITY_ACCEPT_UNSIGNED_OPERATOR="1")
    assert side.beat is not None
    assert side.beat.commands == control.EITHER
    assert side.log("security_accept_unsigned_operator is set") == 1

    keep_drained(side.commands(without_key()), mark="plain", nodes=[NODE], epoch=1)
    wait_until(lambda: side.mark == "plain", what="the mark of an operator without a key")
    side.is_passed_over(lambda: side.post.send(control.Command(method="pool_grow", arguments={})), reason="unsigned")

    keep_drained(side.commands(), mark="signed", nodes=[NODE], epoch=1)
    wait_until(lambda: side.mark == "signed", what="the mark of one with a key")


def test_a_worker_without_signatures_is_drained_as_ever_by_an_operator_with_a_key(side: Fleetside) -> None:
    side.start(signed=False)
    assert side.beat is not None
    assert side.beat.commands == control.PLAIN

    keep_drained(side.commands(), mark="m1", nodes=[NODE], epoch=1)

    wait_until(lambda: side.mark == "m1", what="the mark in its heartbeat")


# -- who is told how

HEEDS = {"a": "", "b": "signed", "c": "either", "d": ""}


@pytest.mark.parametrize(
    ("destination", "heeds", "signs", "routes"),
    [
        pytest.param(None, {}, False, Routes(None), id="nobody is known"),
        pytest.param(None, {"a": "", "d": ""}, True, Routes(None), id="nobody demands a signature: all at once"),
        pytest.param(None, HEEDS, True, Routes(("a", "d"), ("b", "c")), id="some do: each by name"),
        pytest.param(None, HEEDS, False, Routes(("a", "c", "d"), (), ("b",)), id="and there is no key"),
        pytest.param(["b", "a"], HEEDS, True, Routes(("a",), ("b",)), id="some of them"),
        pytest.param(["b"], HEEDS, False, Routes((), (), ("b",)), id="one that cannot be told"),
        pytest.param(["e"], HEEDS, True, Routes(("e",)), id="one that has not been heard"),
        pytest.param([], HEEDS, True, Routes(()), id="nobody"),
    ],
)
def test_each_worker_is_told_in_the_form_that_it_takes(
    destination: list[str] | None, heeds: dict[str, str], signs: bool, routes: Routes
) -> None:
    assert routed(destination, heeds, signs=signs) == routes


class Outbox:
    """A post that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[list[str] | None, bool]] = []

    def send(self, command: control.Command, *, signed: bool = False) -> None:
        self.sent.append((None if command.destination is None else list(command.destination), signed))

    def close(self) -> None:
        pass


def test_those_who_can_be_told_are_told_before_the_others_are_named() -> None:
    outbox = Outbox()
    commands = Commands(outbox, without_key())
    commands._heeds = HEEDS

    with pytest.raises(
        CannotSign, match=r"^b demand signed commands, and the operator has no key .*signing\.secretName"
    ) as raised:
        lift_drain(commands, nodes=["a", "b"], epoch=1)

    assert outbox.sent == [(["a"], False)]
    assert raised.value.nodes == ("b",)


def test_a_broker_that_did_not_take_one_command_is_not_tried_again_before_the_next_tick() -> None:
    class Away(Outbox):
        def send(self, command: control.Command, *, signed: bool = False) -> None:
            super().send(command, signed=signed)
            raise BrokerUnavailable("cannot reach the broker")

    outbox = Away()
    commands = Commands(outbox, without_key())
    for _ in range(2):
        commands.know([])
        for _ in range(3):
            with pytest.raises(BrokerUnavailable, match="cannot reach the broker"):
                lift_drain(commands, nodes=["a"], epoch=1)

    assert len(outbox.sent) == 2


# -- the key


def files(folder: Path, **options: Any) -> KeyFiles:
    who = identity(folder, "operator", **options)
    return KeyFiles(key=str(who.key), certificate=str(who.certificate), password=options.get("password", ""))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"key": "/none"}, "--signing-key: '/none' cannot be read: No such file", id="no key there"),
        pytest.param({"certificate": "/none"}, "--signing-certificate: '/none' cannot be read", id="no certificate there"),
        pytest.param({"key": "ec.key"}, "--signing-key '.*ec.key' is no RSA key", id="not RSA"),
        pytest.param({"certificate": "bob.pem"}, "--signing-certificate '.*bob.pem' is not of the key", id="another's certificate"),
        pytest.param({"password": "hunter2"}, "--signing-key '.*' cannot be used", id="a password too many"),
        pytest.param({"digest": "md5"}, "--signing-digest 'md5' cannot be used", id="a digest that is too weak"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_used_is_named_by_its_option_and_never_shown(
    tmp_path: Path, change: dict[str, str], says: str
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    identity(tmp_path, "bob")
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "ec.key").write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*pem))
    good = files(tmp_path)
    given = {name: str(tmp_path / value) if name in {"key", "certificate"} else value for name, value in change.items()}
    fields = {"key": good.key, "certificate": good.certificate, **given}

    with pytest.raises(SetupError, match=says) as refused:
        signing(KeyFiles(**fields), called=CALLED)

    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(KeyFiles(**fields))


def test_a_key_with_a_password_signs(tmp_path: Path) -> None:
    signature = signing(files(tmp_path, password="dragon"), called=CALLED)

    assert signature.lack() is None
    assert "operator" in signature.name


@pytest.mark.parametrize(
    ("days", "says"),
    [((-2, -1), "which expired at"), ((1, 2), "which is not valid before")],
    ids=["expired", "too early"],
)
def test_a_certificate_out_of_its_time_is_a_lack_and_stops_no_operator(
    tmp_path: Path, days: tuple[float, float], says: str
) -> None:
    lack = signing(files(tmp_path, days=days), called=CALLED).lack()

    assert lack is not None
    assert lack.reason == "SigningCertificateOutOfTime"
    assert says in lack.says


def test_one_file_without_the_other_is_refused() -> None:
    assert key_files(None, None, None, None) is None
    for given in (("k", None), (None, "c")):
        with pytest.raises(SetupError, match="belong together"):
            key_files(*given, None, None)


def test_the_operator_signs_and_reads_nothing(tmp_path: Path) -> None:
    signing(files(tmp_path), called=CALLED)
    content_type, encoding, body = kombu.serialization.dumps({"a": 1}, serializer="auth")

    with pytest.raises(kombu.exceptions.DecodeError, match="signed messages are not read here"):
        kombu.serialization.loads(body, content_type, encoding, accept=["auth"])


def test_the_operators_image_has_what_a_key_needs() -> None:
    dockerfile = (Path(__file__).parents[2] / "Dockerfile").read_text()
    stage = dockerfile.partition("AS build-operator")[2].partition("FROM")[0]

    extras = re.findall(r'"\.\[(.*?)\]"', stage)

    assert extras
    assert all("auth" in each.split(",") for each in extras)


# -- what the pool says

LACK = Lack("SigningKeyMissing", "has no key")
PLAIN_POD, SIGNED_POD = PodSample(name="a"), PodSample(name="b", signed=True)


@pytest.mark.parametrize(
    ("pods", "lack", "mute", "reason", "says"),
    [
        pytest.param([PLAIN_POD], LACK, (), "", "", id="nobody demands a signature"),
        pytest.param([PLAIN_POD, SIGNED_POD], None, (), "", "", id="one does, and there is a key"),
        pytest.param(
            [PLAIN_POD, SIGNED_POD], LACK, (), "SigningKeyMissing", "demand signed commands (b), and the operator has no key",
            id="and there is none",
        ),
        pytest.param([PodSample(name="b", signed=True, deleting=True)], LACK, (), "", "", id="one that goes"),
        pytest.param([PLAIN_POD, SIGNED_POD], None, ("a",), "", "", id="another does not answer"),
        pytest.param(
            [PLAIN_POD, SIGNED_POD], None, ("a", "b"), "CommandsRefused", "(b): is the certificate 'DE operator 7' in their",
            id="it does not answer",
        ),
    ],
)  # fmt: skip
def test_a_pool_says_why_its_workers_do_not_heed_commands(
    pods: list[PodSample], lack: Lack | None, mute: tuple[str, ...], reason: str, says: str
) -> None:
    found = unheeded(pods, lack=lack, certificate="DE operator 7", unanswered=mute)

    assert found[0] == reason
    assert says in found[1]


@pytest.mark.parametrize(
    ("pod", "marked_s", "late"),
    [
        pytest.param(PodSample(name="b"), 29.0, False, id="not for long"),
        pytest.param(PodSample(name="b"), 30.0, True, id="for half a minute"),
        pytest.param(PodSample(name="b", drain_id="old"), 30.0, True, id="with another's mark"),
        pytest.param(PodSample(name="b", drain_id="d1"), 300.0, False, id="it has answered"),
        pytest.param(PodSample(name="c"), 300.0, False, id="it was not told"),
    ],
)
def test_who_does_not_answer_its_mark_is_known_after_half_a_minute(pod: PodSample, marked_s: float, late: bool) -> None:
    memory = Memory(drain_id="d1", marked=(("b", 1000.0 - marked_s),))

    assert unanswered([pod], memory, 1000.0) == (("b",) if late else ())


@pytest.mark.parametrize(
    ("commands", "demands"),
    [(("",), False), (("either",), False), (("signed",), True), (("", "signed"), True)],
    ids=["plain", "either", "signed", "one of two workers"],
)
def test_a_pod_demands_signatures_when_a_worker_in_it_does(commands: tuple[str, ...], demands: bool) -> None:
    fleet = Fleet(started_at=0.0)
    for number, heeds in enumerate(commands):
        beat = Heartbeat(hostname=f"w{number}@b", timestamp=1.0, incarnation=f"i{number}", pod="b", commands=heeds)
        fleet.hear(heartbeat_to_wire(beat), 1.0)
    pods = [PodRecord(name="b", uid="u", phase="Running", ready=True, created_at=0.0)]

    [sample] = pod_samples(pods, match(pods, crews_of(fleet.workers(1.0)), namespace="shop"), 1.0)

    assert sample.signed is demands
