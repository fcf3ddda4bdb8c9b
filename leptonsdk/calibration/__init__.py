"""Calibration layer by layer: each layer's inputs on real data, from earlier layers as they are by then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonsdk.lazy import names_on_demand

if TYPE_CHECKING:
    from leptonsdk.calibration.inputs import Inputs, attended, calibration_inputs, row_count
    from leptonsdk.calibration.streams import Arrived, Group
    from leptonsdk.calibration.walking import LayerByLayer

__all__ = ["Arrived", "Group", "Inputs", "LayerByLayer", "attended", "calibration_inputs", "row_count"]

_PLACES = {
    **dict.fromkeys(("Inputs", "attended", "calibration_inputs", "row_count"), "inputs"),
    **dict.fromkeys(("Arrived", "Group"), "streams"),
    "LayerByLayer": "walking",
}

__getattr__ = names_on_demand(__name__, _PLACES)
