"""Mingle: what a worker that starts asks the others, once: what they have revoked, what time it is, and whether one has its name."""

import logging
import threading
from typing import Any

from celeriac.broker.connection import BrokerAddress
from celeriac.broker.mailbox import Mailbox
from celeriac.exceptions import BrokerUnavailable
from celeriac.wire.control import Command
from celeriac.worker.intake import Intake

log = logging.getLogger(__name__)

#: Seconds to wait for the others' answers.
ANSWERS_S = 1.0


def mingle(
    address: BrokerAddress, hostname: str, incarnation: str, intake: Intake, clock: Any, *, signed: bool = False
) -> threading.Thread:
    """Ask in a thread of its own: the worker works meanwhile. A broker that is away is no matter: revokes are in its store too."""
    thread = threading.Thread(
        target=_ask, args=(address, hostname, incarnation, intake, clock, signed), name="celeriac-mingle", daemon=True
    )
    thread.start()
    return thread


def _ask(address: BrokerAddress, hostname: str, incarnation: str, intake: Intake, clock: Any, signed: bool) -> None:
    asked = {"from_node": hostname, "revoked": list(intake.revoked), "incarnation": incarnation}
    box = Mailbox(address.url, transport_options=address.transport_options, ssl=address.ssl, signed=signed)
    try:
        answers = box.answers(Command(method="hello", arguments=asked), timeout_s=ANSWERS_S)
    except BrokerUnavailable as error:
        log.info("the other workers could not be asked: %s", error)
        return
    finally:
        box.close()
    for answer in answers:
        for node, said in answer.items():
            heed(node, said, hostname, incarnation, intake, clock)


def heed(node: str, said: Any, hostname: str, incarnation: str, intake: Intake, clock: Any) -> None:
    """Take over what one worker answered; warn of a namesake."""
    if not isinstance(said, dict):
        return
    if node == hostname and said.get("incarnation") not in {None, incarnation}:
        log.warning(
            "another worker is named %s too: monitors and remote control cannot tell you apart, and the operator drains both or none; "
            "give each a name of its own with -n NAME@%%h", hostname,
        )  # fmt: skip
    if isinstance(said.get("clock"), int):
        clock.adjust(said["clock"])
    for task, rate in (said.get("rates") or {}).items() if isinstance(said.get("rates"), dict) else ():
        _take_over(intake, task, rate)
    if isinstance(said.get("revoked"), list) and said["revoked"]:
        intake.hear_revoked([str(one) for one in said["revoked"]])


def _take_over(intake: Intake, task: str, rate: Any) -> None:
    """Keep the rate that another worker was told by the operator, until it tells this one."""
    known = intake.set_rates()
    if task in known or not isinstance(rate, list) or len(rate) != 3:
        return
    try:
        intake.set_rate_limit(task, *rate)
    except (KeyError, ValueError) as error:
        log.debug("the rate %r of %s is not for this worker: %r", rate, task, error)
