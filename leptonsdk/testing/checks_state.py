"""Checks of every plugin: what it leaves as it was in the process, in the model it was given, and on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leptonsdk.testing.bench import expect, listed
from leptonsdk.testing.check import Kind, check
from leptonsdk.testing.observing import observe

_ALL: tuple[Kind, ...] = ("compressor", "training", "backend", "evaluator")


@check("leaves-rng-alone", "it does not touch the global random generators of Python, NumPy and torch", *_ALL)
def leaves_rng_alone(plugin: type[Any], config: Mapping[str, Any]) -> None:
    moved = observe(plugin, config).generators
    hint = "draw from a generator of your own, made from `context.seed`"
    expect(not moved, f"the global generator was moved: {listed(moved)}", plugin.name, hint)


@check("leaves-settings-alone", "threads, default dtype, working folder and environment are as before", *_ALL)
def leaves_settings_alone(plugin: type[Any], config: Mapping[str, Any]) -> None:
    moved = observe(plugin, config).settings
    expect(
        not moved, f"it left changed: {listed(moved)}", plugin.name, "undo it in a `finally`, or do not set it at all"
    )


@check("opens-no-connection", "it works without the network, and does not try to reach it", *_ALL)
def opens_no_connection(plugin: type[Any], config: Mapping[str, Any]) -> None:
    tried = observe(plugin, config).addresses
    hint = "what it needs is in the checkpoint, the context or its package"
    expect(not tried, f"it tried to reach {listed(tried)}", plugin.name, hint)


@check(
    "source-unharmed",
    "the model that it was given is as it was: weights, modes, hooks, shared weights",
    "compressor",
    "backend",
    "evaluator",
)
def source_unharmed(plugin: type[Any], config: Mapping[str, Any]) -> None:
    harmed = observe(plugin, config).harmed
    hint = "work on `copy.deepcopy(checkpoint.model)`, and undo what you attach to the original"
    expect(not harmed, f"it changed the model that it was given: {listed(harmed)}", plugin.name, hint)


@check("writes-no-pickle", "nothing that it writes is pickled", "compressor", "training", "backend")
def writes_no_pickle(plugin: type[Any], config: Mapping[str, Any]) -> None:
    pickled = observe(plugin, config).pickled
    hint = "write tensors with safetensors and the rest as JSON"
    expect(not pickled, f"pickled: {listed(pickled)}", plugin.name, hint)
