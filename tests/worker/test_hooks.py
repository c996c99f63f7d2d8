"""Hooks and signals that tell how a task has ended: what they are told of is in the result store by then, in every pool."""

import pytest
from processes import wait_until

STORED = "FAILURE KeyError('k')"


@pytest.mark.parametrize("pool", ["solo", "threads", "asyncio", "prefork"])
def test_who_is_told_of_a_result_finds_it_stored(site, pool: str) -> None:
    site.worker("-P", pool, "-c", "1", app="hooked")
    client = site.client()

    client.send_task("hooked.works").get(timeout=20)
    client.send_task("hooked.works_async").get(timeout=20)
    with pytest.raises(KeyError):
        client.send_task("hooked.fails").get(timeout=20)
    with pytest.raises(KeyError):
        client.send_task("hooked.tries").get(timeout=20)
    wait_until(lambda: site.ledger.path.read_text().count("postrun") == 5, timeout_s=10, what="the last hook")

    succeeded = ["on_success SUCCESS 5", "after_return SUCCESS 5", "postrun SUCCESS 5"]
    failed = [f"{hook} {STORED}" for hook in ("on_failure", "after_return", "postrun")]
    retried = [f"{hook} RETRY KeyError('k')" for hook in ("on_retry", "after_return", "postrun")]
    assert site.ledger.path.read_text().splitlines() == succeeded * 2 + failed + retried + failed
