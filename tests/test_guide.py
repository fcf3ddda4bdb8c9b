"""The plugin author's guide shows what is: signatures, files, and the names that a plugin may import."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from leptonsdk.hooks import Plugins, specs
from leptonsdk.scaffold import KINDS, new_plugin

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
PUBLIC = re.findall(r"^\| `(leptonsdk[.\w]*)` \|", GUIDE, re.MULTILINE)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_it_shows_is_what_stands_in_the_code() -> None:
    assert load(ROOT / "docs" / "update.py").updated(GUIDE) == GUIDE, "run: python docs/update.py"


def test_every_hook_stands_in_it_with_its_exact_signature() -> None:
    names = [name for name in vars(specs) if name.startswith("lepton_")]
    assert len(names) == len(vars(Plugins().hooks.hook))
    for name in names:
        signature = str(inspect.signature(getattr(specs, name))).replace("'", "")
        assert f"def {name}{signature}: ..." in GUIDE, name


def test_the_example_is_whole() -> None:
    for path in (ROOT / "plugins" / "wanda").rglob("*"):
        if path.suffix in (".py", ".toml") and "tests" not in path.relative_to(ROOT).parts:
            assert f"<!-- file {path.relative_to(ROOT).as_posix()} -->\n" in GUIDE, path


def imports(source: str) -> set[tuple[str, str]]:
    """Module and name of what some code takes from leptonsdk."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "leptonsdk":
            found |= {(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "leptonsdk"}
    return found


def check_public(folder: Path) -> int:
    taken = {one for path in folder.rglob("*.py") for one in imports(path.read_text(encoding="utf-8"))}
    for module, name in sorted(taken):
        assert module in PUBLIC, f"{folder.name} imports from {module}"
        if name:
            offered = getattr(importlib.import_module(module), "__all__", None)
            assert not name.startswith("_")
            assert offered is None or name in offered, f"{module}.{name}"
    return len(taken)


def test_the_modules_that_it_names_are_there_and_every_name_in_them() -> None:
    assert len(PUBLIC) == 12
    for name in PUBLIC:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            assert getattr(module, public) is not None


def test_the_example_needs_public_names_only() -> None:
    assert check_public(ROOT / "plugins" / "wanda" / "src") >= 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_templates_need_public_names_only(kind: str, tmp_path: Path) -> None:
    new_plugin("brief", kind, Plugins(), tmp_path / kind)
    assert check_public(tmp_path / kind) >= 5


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", GUIDE):
        assert (ROOT / "docs" / target).exists(), target
