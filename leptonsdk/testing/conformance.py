"""The kit for pytest: a class to derive from, with one test for each check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from leptonsdk.testing.check import Check, CheckFailed, CheckSkipped, Kind, kind_of
from leptonsdk.testing.running import check_names, checks_for, run_check


class _Conformance:
    """One test for each check that is asked of ``plugin``.

    Attributes:
        plugin: The class.
        configs: Fields of its config, each to be checked; None: its ``examples``.
        expected_failures: Names of checks with the reason why they fail; one that passes fails the test.
    """

    plugin: ClassVar[type[Any]]
    configs: ClassVar[Sequence[Mapping[str, Any]] | None] = None
    expected_failures: ClassVar[Mapping[str, str]] = {}
    kind: ClassVar[Kind]

    def pytest_generate_tests(self, metafunc: Any) -> None:
        cls = metafunc.cls
        if "check" not in metafunc.fixturenames:
            return
        if kind_of(cls.plugin) != cls.kind:
            raise TypeError(
                f"{cls.plugin.__name__} is a {kind_of(cls.plugin)}: derive {cls.__name__} from its kind's class"
            )
        check_names(cls.plugin, cls.expected_failures)
        marks = {
            name: pytest.mark.xfail(raises=CheckFailed, strict=True, reason=reason)
            for name, reason in cls.expected_failures.items()
        }
        checks = checks_for(cls.plugin)
        metafunc.parametrize("check", [pytest.param(one, id=one.name, marks=marks.get(one.name, ())) for one in checks])

    def test_conforms(self, check: Check) -> None:
        try:
            run_check(check, self.plugin, self.configs)
        except CheckSkipped as error:
            pytest.skip(error.message)


class CompressorConformance(_Conformance):
    """Of post-training compressors."""

    kind = "compressor"


class TrainingConformance(_Conformance):
    """Of training compressors."""

    kind = "training"


class BackendConformance(_Conformance):
    """Of backends."""

    kind = "backend"


class EvaluatorConformance(_Conformance):
    """Of evaluators."""

    kind = "evaluator"
