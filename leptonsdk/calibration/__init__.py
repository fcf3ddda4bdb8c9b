"""Calibration data as a forward takes it, and what layers read: as the model is, or layer by layer, from earlier ones as they are by then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonsdk.lazy import names_on_demand

if TYPE_CHECKING:
    from leptonsdk.calibration.gram import Gram
    from leptonsdk.calibration.inputs import (
        Budget,
        Inputs,
        attended,
        calibration_inputs,
        one_row,
        positions,
        row_count,
    )
    from leptonsdk.calibration.streams import Arrived, Group
    from leptonsdk.calibration.walking import LayerByLayer
    from leptonsdk.calibration.watching import layers_by_input, watch_inputs

_PLACES = {
    **dict.fromkeys(
        ("Budget", "Inputs", "attended", "calibration_inputs", "one_row", "positions", "row_count"), "inputs"
    ),
    **dict.fromkeys(("Arrived", "Group"), "streams"),
    **dict.fromkeys(("layers_by_input", "watch_inputs"), "watching"),
    "Gram": "gram",
    "LayerByLayer": "walking",
}

__all__ = [
    "Arrived",
    "Budget",
    "Gram",
    "Group",
    "Inputs",
    "LayerByLayer",
    "attended",
    "calibration_inputs",
    "layers_by_input",
    "one_row",
    "positions",
    "row_count",
    "watch_inputs",
]

__getattr__ = names_on_demand(__name__, _PLACES)
