"""Reading a recipe's YAML with the line of every key, so that a problem can be shown where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from leptonsdk.errors import Problem, RecipeError, UsageError

Path_ = tuple[str | int, ...]


@dataclass
class RecipeSource:
    """A recipe as plain data, with where each part of it came from."""

    data: Any
    file: str | None = None
    base: Path = field(default_factory=Path)
    lines: dict[Path_, int] = field(default_factory=dict)
    overrides: dict[Path_, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, path: Path_, message: str, hint: str | None = None, severity: str = "error") -> Problem:
        """A problem at a path, placed at its line or its override."""
        file, line = self.file, None
        for end in range(len(path), -1, -1):
            if path[:end] in self.overrides:
                file = f"--set {self.overrides[path[:end]]}"
                break
            if path[:end] in self.lines:
                line = self.lines[path[:end]]
                break
        return Problem(message, ".".join(map(str, path)), file, line, hint, severity)


def read_recipe(recipe: str | Path | dict[str, Any], overrides: Sequence[str] = ()) -> RecipeSource:
    """Open a recipe file, or take one that is data already, and lay ``a.b=value`` overrides over it.

    Raises:
        RecipeError: The file is missing or no valid YAML.
        UsageError: An override is not of the form ``key=value``.
    """
    source = RecipeSource(recipe) if isinstance(recipe, dict) else _read_file(Path(recipe))
    for override in overrides:
        _override(source, override)
    return source


def _read_file(path: Path) -> RecipeSource:
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RecipeError([Problem(f"cannot be read: {reason}", file=name)]) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        message = f"not valid YAML: {error.problem or error}"
        raise RecipeError([Problem(message, file=name, line=mark.line + 1 if mark else None)]) from error
    source = RecipeSource(None, name, path.parent)
    source.data = _plain(root, (), source) if root is not None else None
    return source


def _plain(node: yaml.Node, path: Path_, source: RecipeSource) -> Any:
    source.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            source.lines[(*path, key)] = key_node.start_mark.line + 1
            if key in result:
                source.problems.append(source.problem((*path, key), "stands twice"))
            result[key] = _plain(value_node, (*path, key), source)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), source) for index, item in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node)


def _override(source: RecipeSource, override: str) -> None:
    key, equals, text = override.partition("=")
    parts: Path_ = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    if not equals or not all(str(part) for part in parts):
        raise UsageError(f"'{override}' is not KEY=VALUE", where="--set", hint="for example --set data.eval.limit=100")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"'{text}' is not valid YAML", where=f"--set {key}") from error
    source.data = _with(source.data, parts, value, override)
    source.overrides[parts] = override


def _with(data: Any, path: Path_, value: Any, override: str) -> Any:
    """A copy of the data with one place changed; mappings on the way are made."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, list):
        if not isinstance(head, int) or head > len(data):
            raise UsageError(f"there is no entry {head} in a list of {len(data)}", where=f"--set {override}")
        items = [*data, None] if head == len(data) else list(data)
        items[head] = _with(items[head], rest, value, override)
        return items
    if data is not None and not isinstance(data, dict):
        raise UsageError(f"'{head}' would stand inside a single value", where=f"--set {override}")
    entries = dict(data or {})
    entries[str(head)] = _with(entries.get(str(head)), rest, value, override)
    return entries
