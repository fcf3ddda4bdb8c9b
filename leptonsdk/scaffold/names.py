"""What a new plugin's parts are called, and which names cannot be had."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from typing import Literal, get_args

from leptonsdk import hooks
from leptonsdk.errors import UsageError, did_you_mean
from leptonsdk.hooks import Plugins

Kind = Literal["compressor", "training", "backend", "evaluator"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 30
_RECIPE_WORDS = frozenset({"train"})  # what stands in a recipe's steps besides compressors
_TASK = "feature-extraction"  # whose models the evaluator of the template is about


@dataclass(frozen=True)
class Names:
    """A plugin's names, all made of one.

    Attributes:
        distribution: What is installed (``leptonsdk-my-pruner``).
        module: What is imported (``leptonsdk_my_pruner``).
        plugin: What recipes and the entry point say (``my_pruner``).
        provides: The name of the class that it provides: the same, or of an evaluator the task (``feature-extraction/my-pruner``).
        stem: What classes' names begin with (``MyPruner``).
        class_name: Of the class that it provides (``MyPrunerCompressor``).
    """

    distribution: str
    module: str
    plugin: str
    provides: str
    stem: str
    class_name: str

    @classmethod
    def of(cls, name: str, kind: Kind) -> Names:
        words = re.split("[-_]", name)
        plugin, stem = "_".join(words), "".join(word.capitalize() for word in words)
        provides = f"{_TASK}/{'-'.join(words)}" if kind == "evaluator" else plugin
        suffix = "Compressor" if kind == "training" else kind.capitalize()
        return cls(f"leptonsdk-{'-'.join(words)}", f"leptonsdk_{plugin}", plugin, provides, stem, f"{stem}{suffix}")


def check_name(name: str, kind: str, plugins: Plugins) -> tuple[Names, Kind]:
    """The names of a new plugin.

    Raises:
        UsageError: The kind does not exist, the name is not valid, or it is taken.
    """
    found = next((k for k in KINDS if k == kind), None)
    if found is None:
        raise UsageError(f"there is no kind '{kind}' of plugin", where="--kind", hint=did_you_mean(kind, KINDS))
    where = f"plugin name '{name}'"
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            "not a valid name",
            where=where,
            hint=f"lower-case letters and digits, in words joined by - or _, {_LONGEST} at most: my-pruner",
        )
    if name.startswith("leptonsdk"):
        raise UsageError("leave 'leptonsdk-' out", where=where, hint="the distribution is called leptonsdk-NAME anyway")
    names = Names.of(name, found)
    if names.plugin in _RECIPE_WORDS or hasattr(hooks, names.class_name):
        raise UsageError("leptonsdk means something else by it", where=where, hint="take another name")
    if (owner := _owner(names, found, plugins)) is not None:
        raise UsageError(f"it is taken by {owner}", where=where, hint="take another name")
    return names, found


def _owner(names: Names, kind: Kind, plugins: Plugins) -> str | None:
    """Who has one of the names already, of what is installed here."""
    for record in plugins.records:
        if record.name.replace("-", "_") == names.plugin:
            return f"plugin {record.label}"
    provided = "compressor" if kind == "training" else kind
    if names.provides in plugins.names(provided):
        return f"the {provided} of plugin {plugins.owner(provided, names.provides).label}"
    try:
        version = importlib.metadata.version(names.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    return f"{names.distribution} {version}, which is installed"
