"""The guide's import path: `from celeriac.datastructures import ExceptionInfo`."""

from celeriac.app.einfo import ExceptionInfo

__all__ = ["ExceptionInfo"]
