"""No task library at all: what the broker and its Python client alone can do. `python raw_app.py` is the worker.

Redis: LPUSH one a call, RPOP a hundred a call when something is there, else BRPOP; nothing is recorded, so a crash loses a
hundred. RabbitMQ: py-amqp's basic_publish, and basic_consume with one acknowledgement for fifty messages.
The message is decoded and its body too: the same messages as Celery's and ours, or a plain number.
"""

import base64
import json
import os

import tally

URL = os.environ["BENCH_BROKER"]
QUEUE = "celery"


def run(body: bytes | str) -> None:
    """Decode a message's body as a worker must, and count; a lone number is a time of sending."""
    value = json.loads(body)
    if isinstance(value, float):
        tally.stamp(value)
    elif isinstance(value, dict):
        run(base64.b64decode(value["body"]))
    else:
        tally.tick()


if URL.startswith("redis"):
    import redis

    client = redis.Redis.from_url(URL)

    def put(message: str) -> None:
        client.lpush(QUEUE, message)

    def send_bulk(count):
        pipeline = client.pipeline(transaction=False)
        for start in range(0, count, 100):
            for number in range(start, min(count, start + 100)):
                pipeline.lpush(QUEUE, json.dumps([[number], {}, {}]))
            pipeline.execute()

    def work() -> None:
        while True:
            for message in client.rpop(QUEUE, 100) or [client.brpop(QUEUE)[1]]:
                run(message)

else:
    from urllib.parse import urlsplit

    import amqp

    _at = urlsplit(URL)
    connection = amqp.Connection(
        f"{_at.hostname}:{_at.port}", userid=_at.username, password=_at.password, virtual_host=_at.path[1:] or "/"
    )
    connection.connect()
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True, auto_delete=False)

    def put(message: str) -> None:
        channel.basic_publish(amqp.Message(message, delivery_mode=2), routing_key=QUEUE)

    def work() -> None:
        waiting = 0

        def received(message: amqp.Message) -> None:
            nonlocal waiting
            run(message.body)
            waiting += 1
            if waiting == 50:
                channel.basic_ack(message.delivery_tag, multiple=True)
                waiting = 0

        channel.basic_qos(0, 100, False)
        channel.basic_consume(QUEUE, callback=received)
        while True:
            connection.drain_events()


def send(number):
    put(json.dumps([[number], {}, {}]))


def send_stamp(since):
    put(json.dumps(float(since)))


if __name__ == "__main__":
    work()
