"""Bring what the guide shows up to date: signatures of hooks and classes, and files, each in the block after its comment.

    python docs/update.py

``<!-- hooks -->`` is followed by every hook, ``<!-- class NAME -->`` by what a plugin implements or reads of a class of
`leptonsdk.hooks`, ``<!-- file PATH -->`` by a file. A test holds the page equal to what this makes of it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "plugins.md"
HOOKS = ROOT / "leptonsdk" / "hooks"
_BLOCK = re.compile(r"(<!-- (hooks|class|file) ?(\S*) -->\n)```\w*\n.*?```\n", re.DOTALL)


def updated(page: str) -> str:
    """The page with every such block made anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}{block(found[2], found[3])}", page)


def block(kind: str, name: str) -> str:
    """What stands after a comment."""
    if kind == "file":
        language = {".py": "python", ".toml": "toml", ".yaml": "yaml"}[Path(name).suffix]
        return f"```{language}\n{(ROOT / name).read_text(encoding='utf-8').rstrip()}\n```\n"
    lines = hooks() if kind == "hooks" else class_outline(name)
    ruff = [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(PAGE.with_suffix(".py")), "-"]
    formatted = subprocess.run(ruff, input="\n".join(lines), stdout=subprocess.PIPE, text=True, check=True).stdout
    return f"```python\n{formatted}```\n"


def hooks() -> Iterator[str]:
    """Each hook's signature under what its description says first."""
    for number, node in enumerate(n for n in _tree("specs.py").body if isinstance(n, ast.FunctionDef)):
        if number:
            yield ""
        yield from _comment(_paragraphs(node)[:1], "")
        yield _signature(node)


def class_outline(name: str) -> Iterator[str]:
    """A class's public attributes and methods, each under what its description says of it."""
    trees = [_tree("classes.py"), _tree("evaluators.py"), _tree("capabilities.py")]
    (node,) = [n for tree in trees for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    described = _attributes(ast.get_docstring(node) or "")
    prose = [text for text in _paragraphs(node) if "    " not in text and not text.endswith("::")]
    yield f"class {name}({', '.join(map(ast.unparse, node.bases))}):" if node.bases else f"class {name}:"
    yield from textwrap.indent('"""' + "\n\n".join(prose) + '"""', "    ").splitlines()
    first = begun = True
    for item in node.body:
        if isinstance(item, ast.AnnAssign):
            if first:
                yield ""
            first = False
            yield from (f"    # {line}" for line in described.get(ast.unparse(item.target), ()))
            yield f"    {ast.unparse(item)}"
        elif isinstance(item, ast.FunctionDef) and (item.name == "__call__" or not item.name.startswith("_")):
            if begun:
                yield ""
            yield from _comment(_paragraphs(item)[:1], "    ")
            yield from (f"    @{ast.unparse(decorator)}" for decorator in item.decorator_list)
            yield f"    {_signature(item)}"
        else:
            continue
        begun = True


def _attributes(docstring: str) -> dict[str, list[str]]:
    """What a docstring's section ``Attributes`` says of each, line by line."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in docstring.partition("Attributes:\n")[2].splitlines():
        if (named := re.fullmatch(r"    (\w+): (.*)", line)) is not None:
            lines = found[named[1]] = [named[2]]
        elif line.startswith("        "):
            lines.append(line.strip())
        else:
            break
    return found


def _tree(file: str) -> ast.Module:
    return ast.parse((HOOKS / file).read_text(encoding="utf-8"))


def _signature(node: ast.FunctionDef) -> str:
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    return f"def {node.name}({ast.unparse(node.args)}){returns}: ..."


def _paragraphs(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    return [part for part in (ast.get_docstring(node) or "").split("\n\n") if part]


def _comment(paragraphs: list[str], indent: str) -> Iterator[str]:
    return (f"{indent}# {line}" for text in paragraphs for line in text.splitlines())


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
