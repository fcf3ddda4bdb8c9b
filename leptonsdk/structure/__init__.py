"""The structure of a model: its attention heads, its feed-forward neurons and its blocks, found by what they compute.

Names do not matter here: `find_units` runs the model, follows the data from layer to layer and probes which unit reaches
which column. What it finds, `remove_heads`, `remove_neurons` and `drop_layers` cut out, so that the model is really smaller,
and `fit_config` and a small file beside the weights (`save_shapes`) make it load again.

The descriptions are here at once; what needs torch is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonsdk.lazy import names_on_demand
from leptonsdk.structure.units import Attention, FeedForward

if TYPE_CHECKING:
    from leptonsdk.structure.depth import deepest_stacks, drop_layers
    from leptonsdk.structure.finding import find_units
    from leptonsdk.structure.removal import remove_heads, remove_neurons
    from leptonsdk.structure.samples import sample_inputs
    from leptonsdk.structure.shapes import Shapes, fit_config, load_shapes, record_shapes, resize, save_shapes
    from leptonsdk.structure.skipping import skippable_layers, state_after, state_before, with_state
    from leptonsdk.structure.tracing import steady
    from leptonsdk.structure.trials import outputs_of

__all__ = [
    "Attention",
    "FeedForward",
    "Shapes",
    "deepest_stacks",
    "drop_layers",
    "find_units",
    "fit_config",
    "load_shapes",
    "outputs_of",
    "record_shapes",
    "remove_heads",
    "remove_neurons",
    "resize",
    "sample_inputs",
    "save_shapes",
    "skippable_layers",
    "state_after",
    "state_before",
    "steady",
    "with_state",
]

_HEAVY = {
    "Shapes": "shapes",
    "deepest_stacks": "depth",
    "drop_layers": "depth",
    "find_units": "finding",
    "fit_config": "shapes",
    "load_shapes": "shapes",
    "outputs_of": "trials",
    "record_shapes": "shapes",
    "remove_heads": "removal",
    "remove_neurons": "removal",
    "resize": "shapes",
    "sample_inputs": "samples",
    "save_shapes": "shapes",
    "skippable_layers": "skipping",
    "state_after": "skipping",
    "state_before": "skipping",
    "steady": "tracing",
    "with_state": "skipping",
}

__getattr__ = names_on_demand(__name__, _HEAVY)
