"""The tasks as arq's coroutines, on Redis; results are kept when BENCH_BACKEND is set."""

import asyncio
import os

import tally
import uvloop
from arq import create_pool
from arq.connections import RedisSettings

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
_settings = RedisSettings.from_dsn(os.environ["BENCH_BROKER"])
_pool = None


async def noop(_, number):
    tally.tick()
    return {"number": number}


async def stamp(_, since):
    tally.stamp(since)


async def nap(_):
    tally.began()
    await asyncio.sleep(1)
    tally.tick()


class WorkerSettings:
    functions = (noop, stamp, nap)
    redis_settings = _settings
    max_jobs = int(os.environ.get("BENCH_SLOTS", "400"))
    poll_delay = 0.01
    keep_result = 500 if os.environ.get("BENCH_BACKEND") else 0
    log_results = False


async def connect():
    global _pool  # noqa: PLW0603
    _pool = await create_pool(_settings)


async def send(number):
    await _pool.enqueue_job("noop", number)


async def send_stamp(since):
    await _pool.enqueue_job("stamp", since)


async def send_nap():
    await _pool.enqueue_job("nap")
