"""The hooks. A plugin implements the ones it wants with `hookimpl` and is found by the entry-point group ``leptonsdk``.

Registration hooks (``lepton_compressors`` … ``lepton_datasets``) return classes. Lifecycle hooks watch or extend a run; an
exception in one stops the run, since a half-compressed model is worse than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from leptonsdk.hooks.cards import ModelCard
from leptonsdk.hooks.classes import Backend, Compressor, StepContext
from leptonsdk.hooks.evaluators import DatasetProvider, Evaluator

if TYPE_CHECKING:
    from leptonsdk.recipe.plan import Step

GROUP = "leptonsdk"
HOOK_API = 1
"""The hook API's version. A plugin module states the one it was written for as ``LEPTON_HOOK_API = 1``."""
OLDEST_HOOK_API = 1
"""Plugins that were written for an older one are set aside."""
DEPRECATED_HOOK_API = 0
"""Plugins that were written for this one or an older one are set aside from the next major version on."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def lepton_compressors() -> Iterable[type[Compressor[Any]]]:
    """Compressor classes.

    Example::

        @leptonsdk.hookimpl
        def lepton_compressors():
            return [MyPruning]
    """
    raise AssertionError  # a specification is never called


@hookspec
def lepton_backends() -> Iterable[type[Backend[Any]]]:
    """Backend classes."""
    raise AssertionError


@hookspec
def lepton_evaluators() -> Iterable[type[Evaluator]]:
    """Evaluator classes, one per task."""
    raise AssertionError


@hookspec
def lepton_datasets() -> Iterable[type[DatasetProvider]]:
    """Dataset classes, each under a short name."""
    raise AssertionError


@hookspec
def lepton_before_step(context: StepContext, step: Step) -> None:
    """Called before a step of a run does its work."""


@hookspec
def lepton_after_step(context: StepContext, step: Step, result: Any) -> None:
    """Called after a step, with the checkpoint or artifact that it made."""


@hookspec
def lepton_on_error(context: StepContext, step: Step, error: BaseException) -> None:
    """Called when a step raised, before the run stops."""


@hookspec
def lepton_model_card(card: ModelCard, run: Mapping[str, Any]) -> None:
    """Called when a run is pushed to the Hub, to extend its model card, such as by how to load an artifact of your backend.

    ``run`` is what the pushed manifest says: ``run.json`` without the run's own work, each artifact with its ``entry`` and
    ``files``.

    Example::

        @leptonsdk.hookimpl
        def lepton_model_card(card, run):
            for artifact in run["artifacts"]:
                if artifact["backend"] == "mine":
                    card.add_loading("With My Runtime", f"`my-runtime {card.repo_id} {artifact['entry']}`")
    """
