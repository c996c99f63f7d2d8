"""The tasks as dramatiq's actors, on Redis or RabbitMQ, with results in Redis when BENCH_BACKEND is set."""

import os

import dramatiq
import tally
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

_url, _backend = os.environ["BENCH_BROKER"], os.environ.get("BENCH_BACKEND")
broker = RabbitmqBroker(url=_url) if _url.startswith("amqp") else RedisBroker(url=_url)
if _backend:
    broker.add_middleware(Results(backend=RedisBackend(url=_backend), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(number):
    tally.tick()
    return {"number": number} if _backend else None


@dramatiq.actor
def stamp(since):
    tally.stamp(since)


def send(number):
    noop.send(number)


def send_stamp(since):
    stamp.send(since)


def send_bulk(count):
    dramatiq.group([noop.message(number) for number in range(count)]).run()
