"""The conformance kit on `QuantizationAwareTraining`."""

from leptonsdk_qat import QuantizationAwareTraining

from leptonsdk.testing import TrainingConformance


class TestConformance(TrainingConformance):
    plugin = QuantizationAwareTraining
