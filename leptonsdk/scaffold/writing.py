"""A new plugin's files, from templates that stand beside this module.

A template's path is that of its file: ``MODULE`` is the module's name, ``dot-`` a dot, and ``.j2`` goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import leptonsdk
from leptonsdk.errors import UsageError
from leptonsdk.hooks import HOOK_API, Plugins
from leptonsdk.scaffold.names import Names, check_name

_TEMPLATES = Path(__file__).parent / "templates"
_SUFFIX = ".j2"


@dataclass(frozen=True)
class NewPlugin:
    """What was written: the names, the folder, and the files in it by relative path."""

    names: Names
    folder: Path
    files: tuple[str, ...]


def new_plugin(name: str, kind: str, plugins: Plugins, out: Path | None = None) -> NewPlugin:
    """Write a plugin that works as it stands.

    Args:
        name: Of the plugin, as recipes will call it.
        kind: ``compressor``, ``training``, ``backend`` or ``evaluator``.
        plugins: The installed ones, whose names are taken.
        out: The folder: new or empty. Default: ``leptonsdk-NAME`` here.

    Raises:
        UsageError: The name or the kind is not valid, the name is taken, or the folder is not empty.
    """
    names, kind = check_name(name, kind, plugins)
    folder = out or Path(names.distribution)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(
            "it is there already, and nothing is overwritten", where=str(folder), hint="give another --out"
        )
    files = dict(sorted(_render(names, kind)))
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return NewPlugin(names, folder, tuple(files))


def _render(names: Names, kind: str) -> Iterator[tuple[str, str]]:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    values = {**asdict(names), "kind": kind, "hook_api": HOOK_API, "core": leptonsdk.__version__}
    for root in (_TEMPLATES / "common", _TEMPLATES / kind):
        for template in sorted(root.rglob(f"*{_SUFFIX}")):
            path = template.relative_to(root).as_posix().removesuffix(_SUFFIX)
            parts = (part.replace("MODULE", names.module) for part in PurePosixPath(path).parts)
            plain = "/".join(f".{part[4:]}" if part.startswith("dot-") else part for part in parts)
            yield plain, environment.from_string(template.read_text(encoding="utf-8")).render(values)
