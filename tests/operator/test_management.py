"""RabbitMQ's management API beside AMQP: what it adds to depths, and what is said when it does not answer."""

import time

import kombu
import pytest

from celeriac.broker.depth import QueueDepth
from celeriac.exceptions import ImproperlyConfigured
from celeriac_operator.fleet.brokers import BrokerTarget, connect
from celeriac_operator.fleet.gaps import gaps
from celeriac_operator.fleet.management import Management, ManagementUnavailable, QueueFacts, with_facts
from celeriac_operator.scaling.signals import PodSample


@pytest.mark.parametrize(
    ("depth", "facts", "joined"),
    [
        pytest.param(
            QueueDepth(ready=3, consumers=2),
            QueueFacts(unacked=5, consumers=9, oldest_sent_at=7.0),
            QueueDepth(ready=3, consumers=2, leased=5, oldest_sent_at=7.0),
            id="what is in flight, and since when the oldest waits",
        ),
        pytest.param(
            QueueDepth(), QueueFacts(oldest_sent_at=7.0), QueueDepth(), id="nothing waits: nothing has an age"
        ),
        pytest.param(QueueDepth(ready=1), None, QueueDepth(ready=1), id="a queue that it does not know"),
        pytest.param(
            QueueDepth(error="no"), QueueFacts(unacked=5), QueueDepth(error="no"), id="a queue that has an error"
        ),
    ],
)
def test_what_it_adds_to_a_depth(depth: QueueDepth, facts: QueueFacts | None, joined: QueueDepth) -> None:
    assert with_facts({"mails": depth}, {} if facts is None else {"mails": facts}) == {"mails": joined}


@pytest.mark.parametrize("url", ["", "rabbit:15672", "amqp://rabbit", "http://", "http://rabbit:99999"])
def test_a_url_that_cannot_be_one_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="management URL"):
        Management(url.replace("rabbit", "user:hunter2@rabbit"), broker_url="amqp://rabbit")


def test_messages_in_flight_are_read_from_a_real_rabbitmq(rabbitmq) -> None:
    management_url = f"http://guest:guest@127.0.0.1:{rabbitmq.node.http_port}"
    side = connect(BrokerTarget(url=rabbitmq.url, management_url=management_url))
    assert side.management is not None
    with kombu.Connection(rabbitmq.url) as connection:
        queue = connection.SimpleQueue("mails")
        for number in range(3):
            queue.put({"number": number}, timestamp=int(time.time()) - 50)
        queue.get(timeout=5)
        until = time.monotonic() + 15
        while True:  # the node looks at its queues every five seconds
            facts = side.management.read().get("mails", QueueFacts())
            if facts.unacked or time.monotonic() > until:
                break
            time.sleep(0.2)
        depths = with_facts(side.probe.probe({"mails": 0.0}), {"mails": facts})
        queue.close()
    side.close()

    taken = depths["mails"].ready + depths["mails"].leased
    assert taken == 3
    assert depths["mails"].leased >= 1


@pytest.mark.parametrize(
    ("credentials", "port", "said"),
    [("guest:hunter2", None, "wrong user or password"), ("guest:guest", 9, "does not answer")],
    ids=["a wrong password", "nobody listens"],
)
def test_one_that_does_not_tell_says_why_without_the_password(rabbitmq, credentials, port, said) -> None:
    url = f"http://{credentials}@127.0.0.1:{port or rabbitmq.node.http_port}"

    with pytest.raises(ManagementUnavailable, match=said) as error:
        Management(url, broker_url=rabbitmq.url).read()

    assert "hunter2" not in str(error.value)


READY = PodSample(name="a", ready_at=900.0)
HEARD = PodSample(name="b", ready_at=900.0, heartbeat_age_s=1.0)


@pytest.mark.parametrize(
    ("pods", "told", "reasons"),
    [
        pytest.param([HEARD], {}, [], id="all is heard"),
        pytest.param([READY, HEARD], {}, ["NoHeartbeat"], id="a pod that is not heard"),
        pytest.param([PodSample(name="new", ready_at=995.0)], {}, [], id="one that has just become ready"),
        pytest.param([READY], {"listened_s": 15.0}, [], id="one that was there when we began to listen"),
        pytest.param([READY], {"hearing": False}, ["HeartbeatsUnheard"], id="nobody is heard"),
        pytest.param([HEARD], {"stock": ["celery@b"]}, ["StockWorkers"], id="stock Celery"),
        pytest.param([HEARD], {"unmanaged": "down"}, ["ManagementUnavailable"], id="no management API"),
    ],
)
def test_what_is_missing_is_named(pods, told, reasons) -> None:
    usual = {"queues": 1, "stock": [], "hearing": True, "listened_s": 90.0, "unmanaged": "", "now": 1000.0}

    assert [reason for reason, _ in gaps(pods, **{**usual, **told})] == reasons
