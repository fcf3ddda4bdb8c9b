"""What a plugin raises in a run names the step, the plugin's distribution and its version."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from leptonsdk.errors import PluginError, RunError, UsageError
from leptonsdk.hooks import PluginConfig, Plugins, StepContext
from leptonsdk.pipeline.run import _Execution
from leptonsdk.quantization import RoundToNearest
from leptonsdk.recipe import Step

RTN = Step("01-rtn", "compress", "rtn", PluginConfig(), "leptonsdk", "0.1.0")
PARTS = tuple(Step(name, "train", name, PluginConfig(), f"acme-{name}", "2.0") for name in ("masks", "teach"))
TRAIN = Step("02-train", "train", "train", PluginConfig(), "leptonsdk", "0.1.0", PARTS)


def guarded(step: Step, error: Exception, *plugins: type[Any]) -> Any:
    def work() -> None:
        raise error

    context = StepContext(seed=0, folder=Path())
    return _Execution.guarded(SimpleNamespace(plugins=Plugins()), step, context, work, *plugins)  # type: ignore[arg-type]


def test_an_error_of_ours_keeps_its_class_place_and_advice() -> None:
    with pytest.raises(UsageError) as caught:
        guarded(RTN, UsageError("groups do not fit", where="layer 'a'", hint="take 16"), RoundToNearest)
    plugin = f"plugin 'rtn' (leptonsdk {importlib.metadata.version('leptonsdk')})"
    assert str(caught.value) == f"step 01-rtn, {plugin}, layer 'a': groups do not fit (take 16)"


def test_any_other_error_becomes_one_of_ours() -> None:
    with pytest.raises(PluginError, match=r"^step 01-rtn, plugin 'rtn' \(leptonsdk [\d.]+\): KeyError: 'a'$"):
        guarded(RTN, KeyError("a"), RoundToNearest)


def test_a_training_that_breaks_outside_of_plugins_names_all_that_act_in_it() -> None:
    with pytest.raises(RunError, match=r"^step 02-train \(acme-masks 2.0, acme-teach 2.0\): KeyError: 'a'$"):
        guarded(TRAIN, KeyError("a"))
    with pytest.raises(UsageError, match=r"step 02-train \(acme-masks 2.0, acme-teach 2.0\): no teacher"):
        guarded(TRAIN, UsageError("no teacher"))
