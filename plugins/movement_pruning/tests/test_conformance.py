"""The conformance kit on `MovementPruning`."""

from leptonsdk_movement_pruning import MovementPruning

from leptonsdk.testing import TrainingConformance


class TestConformance(TrainingConformance):
    plugin = MovementPruning
