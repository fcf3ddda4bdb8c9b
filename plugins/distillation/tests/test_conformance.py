"""The conformance kit on `Distillation`."""

from leptonsdk_distillation import Distillation

from leptonsdk.testing import TrainingConformance


class TestConformance(TrainingConformance):
    plugin = Distillation
    configs = (*Distillation.examples, {"hidden": 1.0, "attention": 1.0})
