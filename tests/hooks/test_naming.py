"""Errors of a plugin's code name the plugin, its distribution and its version, wherever it was called from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import leptonsdk as lepton
from leptonsdk.errors import EvaluationError, LeptonError, PluginError, UsageError
from leptonsdk.hooks import PluginRecord, Plugins, errors_named
from leptonsdk.quantization import RoundToNearest
from leptonsdk.testing.models import tiny_checkpoint
from leptonsdk.testing.trainer import trainer_for

SOURCE = """
from leptonsdk import hookimpl
from leptonsdk.hooks import *
from leptonsdk.hooks import Evaluator, Metric
from {module}.helping import give_way
class Config(PluginConfig):
    precision: str = "auto"
    targets: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
class Press(PostTrainingCompressor[Config]):
    name, config_class, capabilities = "press", Config, Capabilities()
    def compress(self, checkpoint, context):
        give_way()
class Freeze(Backend[Config]):
    name, config_class, precisions = "freeze", Config, ("auto",)
    def export(self, checkpoint, folder, context):
        give_way()
    @classmethod
    def load(cls, artifact, *, threads=None):
        give_way()
class Count(Evaluator):
    name, columns, required, metrics = "{task}", {{"text": ()}}, (frozenset({{"text"}}),), (Metric("n", ("n",)),)
    def encode(self, processor, rows, settings):
        return dict(processor(list(rows["text"]), padding=True, return_tensors="pt"))
    def evaluate(self, runner, processor, dataset, settings):
        runner(**self.encode(processor, dataset[:1], settings))
        give_way()
class Bend(TrainingCompressor[Config]):
    name, config_class, capabilities = "bend", Config, Capabilities()
    breaks = ""
    def prepare(self, model, context):
        self.at("prepare")
    def parameter_groups(self):
        self.at("parameter_groups")
        return []
    def loss(self, model, inputs, outputs, loss):
        self.at("loss")
        return loss
    def update(self, progress):
        self.at(f"update at {{progress:.1f}}")
    def finalize(self, model, context):
        self.at("finalize")
        return model
    def at(self, where):
        if where == self.breaks:
            give_way()
@hookimpl
def lepton_compressors():
    return [Press, Bend]
@hookimpl
def lepton_backends():
    return [Freeze]
@hookimpl
def lepton_evaluators():
    return [Count]
"""
HELPING = """
def give_way():
    raise KeyError("vocab_size")
"""
NAMED = r"^plugin '{}' \({} 3.1\): KeyError: 'vocab_size'$"
ROWS = [{"text": "a good film"}, {"text": "bad"}]


class Installed:
    """A plugin that breaks wherever it is called, as if installed, and found by the manager only when asked for."""

    def __init__(self, folder: Path, name: str, task: str = "text-classification") -> None:
        self.distribution, module = f"acme-{name}", f"acme_{name}"
        (folder / module).mkdir()
        (folder / module / "__init__.py").write_text(SOURCE.format(module=module, task=task))
        (folder / module / "helping.py").write_text(HELPING)
        info = folder / f"{module}-3.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {self.distribution}\nVersion: 3.1\n")
        (info / "entry_points.txt").write_text(f"[leptonsdk]\n{name} = {module}\n")
        importlib.invalidate_caches()
        self.module: Any = importlib.import_module(module)

    def plugins(self) -> Plugins:
        plugins = Plugins()
        plugins.add(self.module, PluginRecord("acme", self.distribution, "3.1"))
        return plugins

    def named(self, name: str) -> str:
        return NAMED.format(name, self.distribution)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("acme_")]:
        del sys.modules[name]


@pytest.fixture
def acme(folder: Path) -> Installed:
    return Installed(folder, "one")


def test_plain_calls(acme: Installed, tmp_path: Path) -> None:
    checkpoint, plugins = tiny_checkpoint("bert"), acme.plugins()
    with pytest.raises(PluginError, match=acme.named("press")) as caught:
        lepton.quantize_model(checkpoint, method="press", plugins=plugins)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(PluginError, match=acme.named("freeze")):
        lepton.export(checkpoint, "freeze", tmp_path / "out", plugins=plugins)
    with pytest.raises(PluginError, match=acme.named("text-classification")):
        lepton.evaluate(checkpoint, ROWS, plugins=plugins)


@pytest.mark.parametrize(
    "breaks", ["prepare", "parameter_groups", "loss", "update at 0.5", "update at 1.0", "finalize"]
)
def test_in_a_trainer_the_one_of_several_that_broke(folder: Path, breaks: str) -> None:
    """The compressors are made by hand: no manager has seen their classes."""
    first, second = Installed(folder, "one"), Installed(folder, "two")
    compression = [one.module.Bend(one.module.Config()) for one in (first, second)]
    compression[1].breaks = breaks

    def run() -> None:
        trainer = trainer_for(compression, tiny_checkpoint("bert"), folder / "run")
        trainer.train()
        trainer.finalize()

    with pytest.raises(PluginError, match=second.named("bend")) as caught:
        run()
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_a_plugin_put_into_the_model_is_the_plugins(acme: Installed, tmp_path: Path) -> None:
    trainer = trainer_for([acme.module.Bend(acme.module.Config())], tiny_checkpoint("bert"), tmp_path / "run")
    handle = trainer.model.register_forward_pre_hook(lambda *_: acme.module.give_way())
    with pytest.raises(PluginError, match=acme.named("bend")):
        trainer.train()
    handle.remove()
    trainer.model.register_forward_pre_hook(lambda *_: {}["not of the plugin"])
    with pytest.raises(KeyError, match="not of the plugin"):
        trainer.train()


def test_a_backends_runner_is_not_the_evaluators_fault(folder: Path) -> None:
    from leptonsdk.data.loading import to_data
    from leptonsdk.evaluation.harness import evaluate
    from leptonsdk.evaluation.subjects import Subject

    one, two = Installed(folder, "one"), Installed(folder, "two")
    checkpoint, plugins = tiny_checkpoint("bert"), one.plugins()
    rows = to_data(ROWS, plugins.get("evaluator", "text-classification"), plugins)

    def run(**inputs: torch.Tensor) -> None:
        two.module.give_way()

    subject = Subject(run, checkpoint.processor, "text-classification", "frozen", {}, two.module.Freeze)  # type: ignore[arg-type]
    with pytest.raises(PluginError, match=two.named("freeze")):
        evaluate(subject, rows, plugins)


def test_an_error_of_ours_stays_what_it_is_and_is_named_once() -> None:
    error = UsageError("groups do not fit", where="layer 'a'", hint="take 16")
    with pytest.raises(UsageError) as caught, errors_named(RoundToNearest), errors_named(RoundToNearest):
        raise error
    assert caught.value is error
    assert error.plugin is not None
    assert str(error) == f"{error.plugin}, layer 'a': groups do not fit (take 16)"
    assert error.plugin.startswith("plugin 'rtn' (leptonsdk ")
    with pytest.raises(EvaluationError, match=r"^plugin 'rtn' \(leptonsdk [^,]*\): no$"), errors_named(RoundToNearest):
        raise EvaluationError("no", where="rtn")


def test_interruptions_and_what_is_nobodys_pass() -> None:
    for error in (KeyboardInterrupt(), SystemExit(3)):
        with pytest.raises(type(error)), errors_named(RoundToNearest):
            raise error
    with pytest.raises(ZeroDivisionError), errors_named(RoundToNearest, foreign=True):
        raise ZeroDivisionError
    with pytest.raises(LeptonError, match=r"^no$"), errors_named(foreign=True):
        raise LeptonError("no")


def test_exceptions_of_code_beside_a_class_that_is_not_installed_are_its_users() -> None:
    class Own:
        name = "own"

        def work(self) -> None:
            raise OSError("full")

    with pytest.raises(ZeroDivisionError), errors_named(Own, foreign=True):
        raise ZeroDivisionError
    with pytest.raises(PluginError, match="'own'"), errors_named(Own, foreign=True):
        Own().work()


def test_a_class_of_nobody_is_named_by_its_module() -> None:
    loose: Any = type("Loose", (), {"name": "loose", "__module__": "somewhere.loose"})
    named = r"^plugin 'loose' \(module somewhere.loose, not installed\): OSError: full$"
    with pytest.raises(PluginError, match=named), errors_named(loose):
        raise OSError("full")


def test_the_managers_record_comes_first(acme: Installed) -> None:
    plugins = Plugins()
    plugins.add(SimpleNamespace(), PluginRecord("nothing", "acme-nothing", "1"))
    plugins.add(acme.module, PluginRecord("acme", "acme-fork", "9"))
    with pytest.raises(PluginError, match=r"\(acme-fork 9\)"), errors_named(acme.module.Press):
        raise OSError
