"""The conformance kit on `Distillation`."""

from leptonsdk_distillation import Distillation

from leptonsdk.testing import TrainingConformance


class TestConformance(TrainingConformance):
    plugin = Distillation
