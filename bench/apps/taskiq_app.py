"""The tasks as taskiq's, on a Redis list, a Redis stream or RabbitMQ: BENCH_KIND; results in Redis when BENCH_BACKEND is set."""

import asyncio
import os

import tally
from taskiq_aio_pika import AioPikaBroker
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

_url, _backend = os.environ["BENCH_BROKER"], os.environ.get("BENCH_BACKEND")
match os.environ["BENCH_KIND"]:
    case "list":
        broker = ListQueueBroker(_url, queue_name="bench")
    case "stream":
        broker = RedisStreamBroker(_url, queue_name="bench", consumer_id="0")
    case _:
        broker = AioPikaBroker(_url)
if _backend:
    broker = broker.with_result_backend(RedisAsyncResultBackend(_backend, result_ex_time=500))


@broker.task(task_name="noop")
async def noop(number: int) -> dict[str, int]:
    tally.tick()
    return {"number": number}


@broker.task(task_name="stamp")
async def stamp(since: float) -> None:
    tally.stamp(since)


@broker.task(task_name="nap")
async def nap() -> None:
    tally.began()
    await asyncio.sleep(1)
    tally.tick()


async def connect():
    await broker.startup()


async def disconnect():
    await broker.shutdown()


async def send(number):
    await noop.kiq(number)


async def send_stamp(since):
    await stamp.kiq(since)


async def send_nap():
    await nap.kiq()
