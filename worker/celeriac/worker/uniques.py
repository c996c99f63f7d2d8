"""Keys of unique calls, let go of when their task starts or has ended."""

import logging
from collections.abc import Sequence

from celeriac.app.base import Celeriac
from celeriac.broker.consumer import Delivery
from celeriac.exceptions import BackendUnavailable
from celeriac.wire.message import UNIQUE

log = logging.getLogger(__name__)


def let_go(app: Celeriac, deliveries: Sequence[Delivery]) -> None:
    """Let the same calls be made again. Without the store they may be when their time is over: that is what it is for."""
    held = [
        (delivery.headers[UNIQUE], str(delivery.headers["id"]))
        for delivery in deliveries
        if delivery.headers.get(UNIQUE)
    ]
    store = app.coordination
    if not held or store is None:
        return
    try:
        store.let_go(held)
    except BackendUnavailable as error:
        log.warning("the keys of %d unique calls are held until their time is over: %s", len(held), error)
