"""Finding plugins, one at a time, so that a broken one is set aside and named while the others work.

pluggy isolates nothing by itself: one entry point that fails to import aborts its loader, one raising implementation
aborts the call. So entry points are imported here one by one, and registration hooks are called one plugin at a time.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

import pluggy

from leptonsdk.errors import (
    LeptonDeprecationWarning,
    LeptonPendingDeprecationWarning,
    MissingPluginError,
    did_you_mean,
)
from leptonsdk.hooks import specs
from leptonsdk.hooks.classes import Backend, Compressor
from leptonsdk.hooks.evaluators import DatasetProvider, Evaluator

ENVIRONMENT = "LEPTONSDK_PLUGINS"
KINDS: dict[str, tuple[str, type]] = {
    "compressor": ("lepton_compressors", Compressor),
    "backend": ("lepton_backends", Backend),
    "evaluator": ("lepton_evaluators", Evaluator),
    "dataset": ("lepton_datasets", DatasetProvider),
}
CLASS_ATTRIBUTES = {
    "compressor": ("name", "config_class", "capabilities"),
    "backend": ("name", "config_class", "precisions"),
    "evaluator": ("name", "columns", "required", "metrics"),
    "dataset": ("name",),
}


@dataclass
class PluginRecord:
    """One plugin as found: where it comes from, what it provides, why it was set aside or will be."""

    name: str
    distribution: str
    version: str
    status: str = "active"
    reason: str | None = None
    provides: dict[str, list[str]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"

    def set_aside(self, reason: str) -> None:
        self.status, self.reason = "set aside", reason


class Plugins:
    """The plugins of this environment: the active ones by kind and name, and a record of each, set aside or not."""

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self.hooks = pluggy.PluginManager(specs.GROUP)
        self.hooks.add_hookspecs(specs)
        self._classes: dict[str, dict[str, type]] = {kind: {} for kind in KINDS}
        self._owners: dict[tuple[str, str], PluginRecord] = {}

    def add(self, module: object, record: PluginRecord) -> None:
        """Register one plugin, or set it aside with the reason. Nothing of a plugin that is set aside stays."""
        self.records.append(record)
        if self.hooks.is_registered(module):  # two distributions whose files stand in one place
            record.set_aside(f"its module {getattr(module, '__name__', module)} is another plugin's already")
            return
        try:
            found = self._collect(module)
        except Exception as error:
            record.set_aside(f"{type(error).__name__}: {error}")
            if self.hooks.is_registered(module):
                self.hooks.unregister(module)
            return
        _warn_of_age(module, record)
        for kind, classes in found.items():
            for name, cls in classes.items():
                self._classes[kind][name] = cls
                self._owners[kind, name] = _RECORDS[cls] = record
        record.provides = {kind: sorted(classes) for kind, classes in found.items() if classes}

    def _collect(self, module: object) -> dict[str, dict[str, type]]:
        _check_api(_api_of(module))
        self.hooks.register(module)
        self.hooks.check_pending()
        found: dict[str, dict[str, type]] = {}
        for kind, (hook, base) in KINDS.items():
            caller = self.hooks.subset_hook_caller(hook, [p for p in self.hooks.get_plugins() if p is not module])
            if not caller.get_hookimpls():
                continue
            found[kind] = {}
            for answer in caller():
                for item in _iterate(hook, answer):
                    cls = _check_class(hook, kind, base, item)
                    name: str = cls.name
                    owner = self._owners.get((kind, name))
                    if owner is not None or name in found[kind]:
                        room = f": leave that out (--no-plugin {owner.name}) to use this one" if owner else ""
                        taken = owner.label if owner else "itself"
                        raise ValueError(f"{kind} '{name}' is already provided by {taken}{room}")
                    found[kind][name] = cls
        return found

    def get(self, kind: str, name: str) -> type[Any]:
        """The class of a kind under a name; a `MissingPluginError` names the nearest one, or why it is not there."""
        classes = self._classes[kind]
        if name in classes:
            return classes[name]
        raise MissingPluginError(f"no {kind} named '{name}' is installed", hint=self.advice(kind, name))

    def advice(self, kind: str, name: str) -> str:
        """What to do about a name that no active plugin provides."""
        for record in self.records:
            if record.status != "active" and name.replace("-", "_") in record.name.replace("-", "_"):
                return f"plugin {record.label} was set aside: {record.reason}"
        return did_you_mean(name, self._classes[kind])

    def names(self, kind: str) -> list[str]:
        return sorted(self._classes[kind])

    def all(self, kind: str) -> Mapping[str, type[Any]]:
        return dict(self._classes[kind])

    def owner(self, kind: str, name: str) -> PluginRecord:
        return self._owners[kind, name]


_RECORDS: WeakKeyDictionary[type, PluginRecord] = WeakKeyDictionary()


def record_of(cls: type) -> PluginRecord | None:
    """The plugin that provides a class. One that no manager has seen yet is looked for among the entry points, by its package."""
    if cls in _RECORDS:
        return _RECORDS[cls]
    points = importlib.metadata.entry_points(group=specs.GROUP)
    shared = {point: _shared(cls.__module__, point.module) for point in points}
    nearest = max(shared, key=lambda point: shared[point], default=None)
    return _record(nearest) if nearest is not None and shared[nearest] else None


def _shared(one: str, other: str) -> int:
    """How many packages two modules have in common."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one.split("."), other.split("."), strict=False))
    )


def _api_of(module: object) -> object:
    return getattr(module, "LEPTON_HOOK_API", specs.HOOK_API)


def _check_api(api: object) -> None:
    if not isinstance(api, int) or api > specs.HOOK_API:
        raise TypeError(f"it was written for hook API {api}, this leptonsdk has {specs.HOOK_API}: update leptonsdk")
    if api < specs.OLDEST_HOOK_API:
        raise TypeError(f"it was written for hook API {api}, this leptonsdk has {specs.HOOK_API}: update the plugin")


def _warn_of_age(module: object, record: PluginRecord) -> None:
    """Warn of a plugin that was written for an older hook API which still works."""
    api = _api_of(module)
    if not isinstance(api, int) or api >= specs.HOOK_API:
        return
    record.reason = f"it was written for hook API {api}, this leptonsdk has {specs.HOOK_API}"
    category: type[Warning] = LeptonPendingDeprecationWarning
    if api <= specs.DEPRECATED_HOOK_API:
        category = LeptonDeprecationWarning
        record.reason += f", and the next major version drops {api}: update the plugin"
    warnings.warn(f"plugin {record.label}: {record.reason}", category, stacklevel=3)


def _iterate(hook: str, answer: object) -> Iterable[object]:
    if isinstance(answer, (str, bytes, type)) or not isinstance(answer, Iterable):
        raise TypeError(f"{hook} returned {type(answer).__name__}, not an iterable of classes")
    return answer


def _check_class(hook: str, kind: str, base: type, cls: object) -> type[Any]:
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise TypeError(f"{hook} returned {cls!r}, which is not a subclass of {base.__name__}")
    missing = [name for name in CLASS_ATTRIBUTES[kind] if not hasattr(cls, name)]
    if missing:
        raise TypeError(f"{cls.__name__} lacks {', '.join(missing)}")
    if abstract := getattr(cls, "__abstractmethods__", None):
        raise TypeError(f"{cls.__name__} does not implement {', '.join(sorted(abstract))}")
    checked: type[Any] = cls
    if not isinstance(checked.name, str) or not checked.name:
        raise TypeError(f"{cls.__name__}.name is {checked.name!r}, not a non-empty string")
    return checked


def load_plugins(*, without: Iterable[str] = (), only: Iterable[str] | None = None) -> Plugins:
    """Find every installed plugin through the entry-point group ``leptonsdk``.

    Of two plugins of one name, the one whose distribution comes first in the alphabet is used.

    Args:
        without: Names of plugins, or of their distributions, to leave out (``--no-plugin``).
        only: Those to use; default: the environment variable ``LEPTONSDK_PLUGINS`` (comma separated), or all when it is
            not set. The built-in plugin ``core`` is always there.
    """
    if only is None and (listed := os.environ.get(ENVIRONMENT)) is not None:
        only = [name.strip() for name in listed.split(",") if name.strip()]
    wanted = None if only is None else {_canonical(name) for name in (*only, "core")}
    unwanted = {_canonical(name) for name in without}
    plugins = Plugins()
    known: set[str] = set()
    for point in sorted(importlib.metadata.entry_points(group=specs.GROUP), key=_order):
        record = _record(point)
        names = {_canonical(record.name), _canonical(record.distribution)}
        known |= names
        if names & unwanted or (wanted is not None and not names & wanted):
            record.status, record.reason = "disabled", "left out by the user"
            plugins.records.append(record)
        else:
            _load(point, record, plugins)
    if unknown := sorted((unwanted | (wanted or set())) - known):
        raise MissingPluginError(f"no plugin named {', '.join(unknown)}", hint=did_you_mean(unknown[0], known))
    return plugins


def _load(point: importlib.metadata.EntryPoint, record: PluginRecord, plugins: Plugins) -> None:
    """Import one plugin and register it, or set it aside."""
    taken = next((r for r in plugins.records if r.name == record.name and r.status == "active"), None)
    if taken is not None:
        room = f"leave that out (--no-plugin {taken.distribution}) to use this one"
        record.set_aside(f"another plugin has its name: {taken.label}; {room}")
        plugins.records.append(record)
        return
    try:
        module = point.load()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        record.set_aside(f"cannot be imported: {type(error).__name__}: {error}")
        plugins.records.append(record)
        return
    plugins.add(module, record)


def _record(point: importlib.metadata.EntryPoint) -> PluginRecord:
    found = point.dist
    return PluginRecord(point.name, found.name if found else "unknown", found.version if found else "unknown")


def _order(point: importlib.metadata.EntryPoint) -> tuple[bool, str, bool, str]:
    """The built-in plugin first, then by name, then by distribution."""
    distribution = point.dist.name if point.dist else ""
    return point.name != "core", point.name, distribution != "leptonsdk", distribution


def _canonical(name: str) -> str:
    """As package indexes compare names: ``Movement_Pruning`` is ``movement-pruning``."""
    return re.sub(r"[-_.]+", "-", name).lower()
