"""Rooms give their heavy names on first use."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_rooms_load_no_torch_until_a_name_needs_it() -> None:
    code = (
        "import sys, leptonsdk.structure as s, leptonsdk.quantization as q; assert 'torch' not in sys.modules; "
        "s.drop_layers; q.quantize; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import leptonsdk.structure

    with pytest.raises(AttributeError, match="'leptonsdk.structure' has no attribute 'nothing'"):
        leptonsdk.structure.nothing  # noqa: B018


def test_the_built_in_plugin_loads_nothing_heavy() -> None:
    """A plan reads every task's class, and is to answer at once."""
    heavy = "{'torch', 'transformers', 'datasets', 'numpy', 'scipy'}"
    code = f"import sys, leptonsdk.builtin; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
