"""A worker that claims one message, says so, and hangs: `claimer.py URL QUEUE LEASE_S`. The test kills it."""

import sys
import time

from celeriac.broker.connection import BrokerAddress
from celeriac.broker.consumer import open_consumer

url, queue, lease_s = sys.argv[1:]
consumer = open_consumer(BrokerAddress(url=url), [queue], node="claimer@here", lease_s=float(lease_s), prefetch=1)
while not consumer.claim(1):
    time.sleep(0.02)
print("claimed 1", flush=True)
time.sleep(60)
