"""ExceptionInfo: what hooks and receivers are told of an error."""


class ExceptionInfo:
    """An exception and its traceback as text: `einfo` of hooks and signals. type, exception, traceback; str() is the traceback."""

    __slots__ = ("exception", "traceback", "type")

    def __init__(self, exception: BaseException, traceback: str) -> None:
        self.type = type(exception)
        self.exception = exception
        self.traceback = traceback

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"
