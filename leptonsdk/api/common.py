"""What the plain calls share: the installed plugins, and one line for a config that is wrong."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import ValidationError

from leptonsdk.errors import MissingPluginError
from leptonsdk.hooks import Plugins, load_plugins


@cache
def installed_plugins() -> Plugins:
    """The plugins of this environment, found once."""
    return load_plugins()


def first_party(plugins: Plugins, name: str, what: str) -> type[Any]:
    """A compressor of a distribution of ours; a `MissingPluginError` says how to install it for what is to be done."""
    if name not in plugins.names("compressor"):
        package = f"leptonsdk-{name.replace('_', '-')}"
        raise MissingPluginError(f"{what} is done by {package}, which is not there", hint=f"pip install {package}")
    return plugins.get("compressor", name)


def wrong(error: ValidationError) -> str:
    """Everything that a config's validation found, in one line."""
    found = []
    for problem in error.errors():
        place = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        found.append(f"{place}: {message}" if place else message)
    return "; ".join(found)
