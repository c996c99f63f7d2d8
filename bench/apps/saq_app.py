"""The tasks as SAQ's coroutines, on Redis; a job is deleted as soon as it is done unless BENCH_BACKEND asks for results."""

import asyncio
import os

import tally
import uvloop
from saq import Queue

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
queue = Queue.from_url(os.environ["BENCH_BROKER"])
_KEEP_S = 500 if os.environ.get("BENCH_BACKEND") else -1


async def noop(_, *, number):
    tally.tick()
    return {"number": number}


async def stamp(_, *, since):
    tally.stamp(since)


async def nap(_):
    tally.began()
    await asyncio.sleep(1)
    tally.tick()


settings = {"queue": queue, "functions": [noop, stamp, nap], "concurrency": int(os.environ.get("BENCH_SLOTS", "50"))}


async def connect():
    await queue.connect()


async def send(number):
    await queue.enqueue("noop", number=number, ttl=_KEEP_S)


async def send_stamp(since):
    await queue.enqueue("stamp", since=since, ttl=_KEEP_S)


async def send_nap():
    await queue.enqueue("nap", ttl=_KEEP_S)
