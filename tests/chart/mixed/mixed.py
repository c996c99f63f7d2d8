"""Tasks of every kind that the dashboard draws, and a run that submits them for some twenty seconds."""

import time

from celeriac import Celeriac

app = Celeriac("mixed")
app.conf.task_default_queue = "mixed"


@app.task
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@app.task(bind=True, max_retries=2)
def flaky(self, tries: int) -> int:  # type: ignore[no-untyped-def]
    if self.request.retries < tries:
        raise self.retry(countdown=1, exc=ConnectionError("not yet"))
    return int(self.request.retries)


@app.task
def broken() -> None:
    raise ValueError("as it should")


@app.task(rate_limit="2/s")
def slow_lane() -> None:
    pass


def submit() -> None:
    for number in range(40):
        slow_lane.delay()
        sleep.apply_async(args=(0.1,), countdown=20 + number)
    for _ in range(20):
        for _ in range(10):
            sleep.delay(0.3)
        flaky.delay(1)
        broken.delay()
        time.sleep(1)


if __name__ == "__main__":
    submit()
