"""A mutant whose module imports torch."""

from __future__ import annotations

import torch

from mutants.plugins import Pruner

assert torch


class ImportsTorch(Pruner):
    """Correct, but for its module."""
