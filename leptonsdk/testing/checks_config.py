"""Checks of every plugin's config and module: what a plan, the docs and ``lepton plugins show`` read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from leptonsdk.testing.bench import expect, kept, listed, made
from leptonsdk.testing.check import Kind, check

_CONFIGURED: tuple[Kind, ...] = ("compressor", "training", "backend")
_HEAVY = (
    *("torch", "transformers", "datasets", "scipy", "pandas", "pyarrow", "sklearn", "bitsandbytes", "torchao"),
    *("onnx", "onnxruntime", "openvino", "nncf", "coremltools", "executorch"),
)


@check(
    "config-described", "every field of its config has a description, which `lepton plugins show` tells", *_CONFIGURED
)
def config_described(plugin: type[Any], config: Mapping[str, Any]) -> None:
    fields = plugin.config_class.model_json_schema()["properties"] if plugin.config_class.model_fields else {}
    bare = [name for name, field in fields.items() if not str(field.get("description", "")).strip()]
    expect(
        not bare,
        f"no description: {listed(bare)}",
        plugin.config_class.__name__,
        "write `Field(..., description=...)`: `lepton plugins show` has nothing else to say",
    )


@check(
    "config-round-trips", "its config comes back the same from YAML, as recipes and run folders write it", *_CONFIGURED
)
def config_round_trips(plugin: type[Any], config: Mapping[str, Any]) -> None:
    before = made(plugin, config).config
    written = yaml.safe_dump(before.model_dump(mode="json"))
    try:
        after = plugin.config_class(**yaml.safe_load(written))
    except ValidationError as error:
        after = error
    expect(
        after == before,
        f"{before!r} became {after!r}",
        plugin.config_class.__name__,
        "validators must take what `model_dump(mode='json')` writes, and leave a valid value as it is",
    )


@check("config-strict", "its config refuses a key that it does not know", *_CONFIGURED)
def config_strict(plugin: type[Any], config: Mapping[str, Any]) -> None:
    try:
        plugin.config_class(**config, no_such_field=1)
    except ValidationError:
        return
    expect(
        False,
        "it takes an unknown key without a word",
        plugin.config_class.__name__,
        "leave `extra='forbid'` as `PluginConfig` has it: a mistyped key must not be lost",
    )


@check(
    "light-import",
    "the module of its class imports nothing heavy, so that a plan answers at once",
    *_CONFIGURED,
    "evaluator",
)
def light_import(plugin: type[Any], config: Mapping[str, Any]) -> None:
    module = plugin.__module__
    loaded = kept(lambda: _imports(module), "imports", module)
    expect(
        not loaded,
        f"importing it also imports {listed(loaded)}",
        f"module {module}",
        "import these inside the methods that need them",
    )


def _imports(module: str) -> list[str]:
    """The heavy packages that a module brings along, in a fresh process; nothing where it cannot be imported there."""
    code = (
        f"import sys, importlib\ntry: importlib.import_module({module!r})\nexcept ModuleNotFoundError: sys.exit()\n"
        f"print(*(name for name in {_HEAVY!r} if name in sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    return done.stdout.split()
