"""The conformance kit on `MovementPruning`."""

from leptonsdk_movement_pruning import MovementPruning

from leptonsdk.testing import TrainingConformance

WEIGHTS = {"structure": ["unstructured"], "final_sparsity": 0.5}


class TestConformance(TrainingConformance):
    plugin = MovementPruning
    configs = (
        *MovementPruning.examples,  # movement, over heads and neurons
        {"method": "magnitude", **WEIGHTS},
        {"method": "soft_movement", **WEIGHTS},
    )
