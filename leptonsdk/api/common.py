"""What the plain calls share: the installed plugins, and one line for a config that is wrong."""

from __future__ import annotations

from functools import cache

from pydantic import ValidationError

from leptonsdk.hooks import Plugins, load_plugins


@cache
def installed_plugins() -> Plugins:
    """The plugins of this environment, found once."""
    return load_plugins()


def wrong(error: ValidationError) -> str:
    """Everything that a config's validation found, in one line."""
    found = []
    for problem in error.errors():
        place = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        found.append(f"{place}: {message}" if place else message)
    return "; ".join(found)
