"""Errors that say whose they are: what a plugin's code raises arrives with the plugin's name, distribution and version.

Whoever calls a plugin does it inside `errors_named`. Nothing is looked up before something was raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from leptonsdk.errors import LeptonError, PluginError
from leptonsdk.hooks.manager import record_of

_CORE = "leptonsdk"


@contextmanager
def errors_named(*plugins: type[Any], foreign: bool = False) -> Iterator[None]:
    """Name the plugin in every error that is raised inside: ``plugin 'gptq' (leptonsdk-gptq 0.1.0): …``.

    A `LeptonError` stays what it is and says so before its own place. Any other becomes a `PluginError`, whose cause it is.
    An error that is named already, by a plugin that ran inside this one, is left as it is; what is no `Exception`
    (`KeyboardInterrupt`) passes.

    Args:
        plugins: The classes at work. Of several the one is named in whose code it was raised, else the first.
        foreign: What is raised inside may be no plugin's at all (a whole training run): what passed through none of their code
            is left as it is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, LeptonError) and error.plugin is not None:
            raise
        plugin = _raised_in(error, plugins) or (None if foreign else plugins[0])
        if plugin is None:
            raise
        maker = f"plugin '{plugin.name}' ({maker_of(plugin)})"
        if isinstance(error, LeptonError):
            if error.where == plugin.name:  # it is said once
                error.where = None
            error.within(maker).plugin = maker
            raise
        named = PluginError(f"{type(error).__name__}: {error}", where=maker)
        named.plugin = maker
        raise named from error


def maker_of(plugin: type[Any]) -> str:
    """Distribution and version of a plugin's class, or its module where it is not installed."""
    record = record_of(plugin)
    return f"{record.distribution} {record.version}" if record else f"module {plugin.__module__}, not installed"


def _raised_in(error: BaseException, plugins: Sequence[type[Any]]) -> type[Any] | None:
    """The class in whose method or package an error was raised; of those that call each other, the inner one."""
    known = False
    for frame in _from_within(error):
        found = [one for one in plugins if _is_method(frame, one)] or [one for one in plugins if _is_near(frame, one)]
        if found:  # several: a helper of their common package, and further out stands whose method called it
            plugins, known = found, True
    return plugins[0] if known else None


def _from_within(error: BaseException) -> list[FrameType]:
    frames, trace = [], error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return frames[::-1]


def _is_method(frame: FrameType, plugin: type[Any]) -> bool:
    own = frame.f_locals.get("self", frame.f_locals.get("cls"))
    return isinstance(own, plugin) or (isinstance(own, type) and issubclass(own, plugin))


def _is_near(frame: FrameType, plugin: type[Any]) -> bool:
    """Whether a frame is in the class's package; of the core's own classes, which is around everything, in its module.

    A class that is not installed may stand beside its user's own code, whose exceptions are the user's (a trial that is pruned).
    """
    if record_of(plugin) is None:
        return False
    module = str(frame.f_globals.get("__name__"))
    package = plugin.__module__.partition(".")[0]
    return module == plugin.__module__ if package == _CORE else module.partition(".")[0] == package
