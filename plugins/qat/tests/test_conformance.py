"""The conformance kit on `QuantizationAwareTraining`."""

from leptonsdk_qat import QuantizationAwareTraining

from leptonsdk.testing import TrainingConformance


class TestConformance(TrainingConformance):
    plugin = QuantizationAwareTraining
    configs = (
        *QuantizationAwareTraining.examples,
        {"bit_width": 4, "group_size": 16, "activation_bits": None},  # learned scales
    )
