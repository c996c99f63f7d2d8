"""YAML as people write it: `documents(raw, shown)` has one error for whatever is wrong with it."""

from typing import Any

from celeriac_operator.errors import SetupError


def documents(raw: bytes, shown: str) -> list[Any]:
    """The documents of a YAML text in UTF-8 or UTF-16. Raises SetupError that calls the text `shown`."""
    import yaml

    try:
        return list(yaml.safe_load_all(raw))
    except RecursionError as error:
        raise SetupError(f"{shown} is not YAML that can be read: it is nested too deep") from error
    # A value that does not fit its tag (2026-13-01, !!int x) ends in whatever its conversion raises.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise SetupError(f"{shown} is not YAML: {error or type(error).__name__}") from error
