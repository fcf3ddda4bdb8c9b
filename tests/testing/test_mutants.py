"""The kit bites: correct tiny plugins pass, each mutant fails the check that is meant for it and no other, and every check has
a mutant that it alone catches, so that none could be deleted."""

from __future__ import annotations

from typing import Any

import pytest
from mutants import compressors, others
from mutants.heavy import ImportsTorch
from mutants.plugins import Classification, Folder, MaskTraining, Pruner, Quantizer

from leptonsdk.hooks.manager import ENVIRONMENT
from leptonsdk.testing import bench, checks_compressor, run_checks
from leptonsdk.testing.running import all_checks

CORRECT = (Pruner, Quantizer, MaskTraining, Folder, Classification)
KINDS = {
    "compressor": {**compressors.MUTANTS, "light-import": ImportsTorch},
    "training": others.TRAINING,
    "backend": others.BACKENDS,
    "evaluator": others.EVALUATORS,
}
MUTANTS = [(name, mutant) for mutants in KINDS.values() for name, mutant in mutants.items()]
MUTANTS += compressors.MORE + others.MORE


@pytest.fixture(autouse=True)
def in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the core's compressors, and on three architectures: first-party plugins' own tests are on all."""
    monkeypatch.setenv(ENVIRONMENT, "core")
    for module in (bench, checks_compressor):
        monkeypatch.setattr(module, "ARCHITECTURES", ("bert", "llama", "vit"))


def failures(plugin: type[Any]) -> dict[str, str]:
    return {result.name: result.message for result in run_checks(plugin) if not result.ok}


@pytest.mark.parametrize("plugin", CORRECT, ids=lambda plugin: plugin.__name__)
def test_a_correct_plugin_passes(plugin: type[Any]) -> None:
    assert failures(plugin) == {}


@pytest.mark.parametrize(("check", "mutant"), MUTANTS, ids=lambda value: getattr(value, "__name__", None))
def test_each_mutant_fails_its_check_and_no_other(check: str, mutant: type[Any]) -> None:
    found = failures(mutant)
    assert list(found) == [check], found


def test_every_check_has_a_mutant_that_it_alone_catches() -> None:
    for check in all_checks():
        assert any(check.applies(mutant) and check.name == name for name, mutant in MUTANTS), check.name
