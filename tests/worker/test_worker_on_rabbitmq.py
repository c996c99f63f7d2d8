"""A whole worker on RabbitMQ: what is not due, what runs for long, and who gets what comes behind it."""

import re
import time
from datetime import UTC, datetime

import kombu
import pytest
from processes import wait_until
from sites import Site

from celeriac.broker.amqp_producer import AmqpProducer, outgoing_of
from celeriac.wire.message import TaskMessage, compose

pytestmark = pytest.mark.parametrize("site", ["rabbitmq"], indirect=True)


def waiting_and_claimed(site: Site) -> list[int]:
    """Messages of the queue `celery`: those ready, those with a worker. By rabbitmqctl, a second."""
    vhost = site.broker.rsplit("/", 1)[1]
    figures = "[messages_ready, messages_unacknowledged, name]"
    rows = site.server.node.evaluate(f'rabbit_amqqueue:info_all(<<"{vhost}">>, {figures}).')
    [row] = [row for row in rows.split("[{messages_ready") if '<<"celery">>' in row]
    return [int(number) for number in re.findall(r"[,{]\D*?(\d+)}", row)[:2]]


def _message(number: int, due_at: float) -> TaskMessage:
    return compose(
        id=f"id{number}", task="jobs.work", args=[number, 0], kwargs={}, queue="celery", origin="test", sent_at=time.time(),
        eta=datetime.fromtimestamp(due_at, UTC),
    )  # fmt: skip


def started_at(site: Site) -> dict[int, float]:
    lines = site.ledger.path.read_text().splitlines() if site.ledger.path.exists() else []
    return {int(number): float(at) for what, number, _, at in map(str.split, lines) if what == "start"}


def test_two_thousand_tasks_with_etas_wait_with_no_worker_and_none_runs_early(site: Site) -> None:
    app = site.client()
    site.worker("-P", "solo", broker_native_delayed_delivery_queue_type="classic")  # quick to declare
    base = time.time() + 9
    due = {number: base + number % 40 / 20 for number in range(2000)}
    messages = {number: _message(number, due_at) for number, due_at in due.items()}
    producer = AmqpProducer(app.broker_address(), timeout_s=30)
    site.closing.callback(producer.close)

    # As Celery's clients send them: it is the worker that parks them.
    sent = producer.deliver({n: [outgoing_of(message, park=False)] for n, message in messages.items()}, timeout_s=30)

    assert len(sent) == 2000
    wait_until(lambda: waiting_and_claimed(site) == [0, 0], timeout_s=8, what="a worker that holds nothing")
    assert started_at(site) == {}
    wait_until(lambda: len(site.ledger.ends()) == 2000, timeout_s=30, every_s=0.1)
    assert set(site.ledger.starts().values()) == {1}
    late_s = sorted(at - due[number] for number, at in started_at(site).items())
    assert late_s[0] >= 0
    assert late_s[1000] < 20  # a second, on a machine with nothing else to do: bench measures it
    assert waiting_and_claimed(site) == [0, 0]


def test_a_body_that_outlasts_the_heartbeats_keeps_its_message(site: Site) -> None:
    site.worker("-P", "solo", broker_heartbeat="1")

    site.client().send_task("jobs.work", [1, 4.0])

    wait_until(lambda: site.ledger.ends()[1] == 1)
    wait_until(lambda: waiting_and_claimed(site) == [0, 0], timeout_s=10)
    assert site.ledger.starts() == {1: 1}


@pytest.mark.parametrize("late", ["1", "0"], ids=["acknowledged late", "acknowledged early"])
def test_what_comes_behind_a_long_body_goes_to_a_worker_that_is_free(site: Site, late: str) -> None:
    site.worker("-P", "solo", task_acks_late=late)
    client = site.client()
    client.send_task("jobs.work", [1, 6.0])
    wait_until(lambda: site.ledger.starts()[1])

    for number in (2, 3):
        client.send_task("jobs.work", [number, 0])
    site.worker("-P", "solo", task_acks_late=late)

    wait_until(lambda: site.ledger.ends() == {2: 1, 3: 1}, timeout_s=6)


@pytest.mark.parametrize("late", ["1", "0"], ids=["acknowledged late", "acknowledged early"])
def test_a_task_whose_retry_the_broker_refuses_has_failed_and_the_worker_goes_on(site: Site, late: str) -> None:
    client = site.client()
    site.worker("-P", "solo", task_acks_late=late)

    somebody = site.closing.enter_context(kombu.Connection(site.broker))
    somebody.default_channel.queue_declare("private", exclusive=True)
    refused = client.send_task("jobs.moved", ["private"])
    unwritable = client.send_task("jobs.moved", ["q" * 300])
    fine = client.send_task("jobs.add", [3, 4])

    assert fine.get(timeout=10) == 7
    wait_until(lambda: (refused.state, unwritable.state) == ("FAILURE", "FAILURE"), timeout_s=5)
    assert waiting_and_claimed(site) == [0, 0]
