"""Handles of calls: one call's in `handle`, several together in `group`."""

from celeriac.result.group import GroupResult, ResultSet, TaskSetResult, result_from_tuple
from celeriac.result.handle import (
    AsyncResult,
    EagerResult,
    R,
    ResultBase,
    allow_join_result,
    apps,
    denied_join_result,
)

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "R",
    "ResultBase",
    "ResultSet",
    "TaskSetResult",
    "allow_join_result",
    "apps",
    "denied_join_result",
    "result_from_tuple",
]
