"""Small packages that only some metrics need: extras of the distribution, asked for before any work is done."""

from __future__ import annotations

import importlib
from typing import Any

from leptonsdk.errors import EvaluationError


def optional(module: str, *, extra: str, where: str) -> Any:
    """A module of an optional package.

    Args:
        module: Its dotted name.
        extra: The extra of `leptonsdk` that brings the package.
        where: The task that needs it.

    Raises:
        EvaluationError: The package is not installed; the hint is the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise EvaluationError(
            f"{package} is not installed", where=where, hint=f"pip install 'leptonsdk[{extra}]'"
        ) from error
