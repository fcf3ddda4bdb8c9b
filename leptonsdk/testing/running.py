"""Which checks are asked of a plugin, and running them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from leptonsdk.errors import UsageError, did_you_mean
from leptonsdk.testing.check import Check, CheckFailed, CheckResult, CheckSkipped, found, kind_of

Notice = Callable[[CheckResult], None]


@cache
def all_checks() -> tuple[Check, ...]:
    """Every check of the kit."""
    from leptonsdk.testing import (
        checks_backend,
        checks_composition,
        checks_compressor,
        checks_config,
        checks_declared,
        checks_errors,
        checks_evaluator,
        checks_post_training,
        checks_state,
        checks_training,
    )

    rooms = (
        checks_config,
        checks_state,
        checks_compressor,
        checks_declared,
        checks_errors,
        checks_post_training,
        checks_training,
        checks_composition,
        checks_backend,
        checks_evaluator,
    )
    return tuple(one for room in rooms for one in found(vars(room)))


def checks_for(plugin: type[Any]) -> Sequence[Check]:
    """The checks that are asked of a plugin class, by its kind and the capabilities that it declares."""
    kind_of(plugin)
    return tuple(one for one in all_checks() if one.applies(plugin))


def run_checks(
    plugin: type[Any],
    configs: Sequence[Mapping[str, Any]] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    *,
    notice: Notice = lambda result: None,
) -> list[CheckResult]:
    """Run the checks of a plugin class.

    Args:
        plugin: A compressor's, backend's or evaluator's class.
        configs: Fields of its config, each to be checked; default: its ``examples`` (of an
            evaluator, its ``example_options``).
        expected_failures: Names of checks with the reason why they fail. One that passes is an error.
        notice: Called with each result as it comes.

    Raises:
        UsageError: An expected failure names no check of this plugin.
    """
    expected = dict(expected_failures or {})
    check_names(plugin, expected)
    results = []
    for one in checks_for(plugin):
        results.append(_result(one, plugin, configs, expected.get(one.name)))
        notice(results[-1])
    return results


def check_names(plugin: type[Any], expected: Mapping[str, str]) -> None:
    """Raise a `UsageError` for an expected failure that names no check of the plugin."""
    names = [one.name for one in checks_for(plugin)]
    for name in expected:
        if name not in names:
            raise UsageError(f"no check '{name}' is asked of {plugin.name}", hint=did_you_mean(name, names))


def examples_of(plugin: type[Any]) -> Sequence[Mapping[str, Any]]:
    """The configs that a plugin class wants to be tried with; of an evaluator, the options."""
    found: Sequence[Mapping[str, Any]] = plugin.example_options if kind_of(plugin) == "evaluator" else plugin.examples
    return found


def run_check(one: Check, plugin: type[Any], configs: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Run one check with every config; what the process is set to is put back afterwards.

    Raises:
        CheckFailed: It failed with one of the configs.
        CheckSkipped: None of them leaves it anything to check.
    """
    from leptonsdk.testing.watching import restored

    skipped: list[str] = []
    configs = tuple(examples_of(plugin) if configs is None else configs)
    for config in configs:
        where = f"config {dict(config)}: " if len(configs) > 1 else ""
        try:
            with restored():
                one.run(plugin, config)
        except CheckSkipped as error:
            skipped.append(error.message)
        except CheckFailed as error:
            raise CheckFailed(f"{where}{error.message}", where=error.where, hint=error.hint) from error
        except Exception as error:
            message = f"{where}{type(error).__name__}: {error}"
            raise CheckFailed(message, where=plugin.name, hint="it broke while it was checked") from error
    if len(skipped) == len(configs):
        raise CheckSkipped(skipped[0] if skipped else "no config is given")


def _result(
    one: Check, plugin: type[Any], configs: Sequence[Mapping[str, Any]] | None, reason: str | None
) -> CheckResult:
    start = time.perf_counter()
    try:
        run_check(one, plugin, configs)
    except CheckSkipped as error:
        return CheckResult(one.name, "skipped", time.perf_counter() - start, error.message)
    except CheckFailed as error:
        seconds = time.perf_counter() - start
        if reason is not None:
            return CheckResult(one.name, "expected failure", seconds, reason)
        return CheckResult(one.name, "failed", seconds, str(error))
    seconds = time.perf_counter() - start
    if reason is not None:
        message = f"it was expected to fail ({reason}), and passes: take it out of the expected failures"
        return CheckResult(one.name, "unexpected pass", seconds, message)
    return CheckResult(one.name, "passed", seconds)
