"""The conformance kit on `GPTQ`."""

from leptonsdk_gptq import GPTQ

from leptonsdk.testing import CompressorConformance


class TestConformance(CompressorConformance):
    plugin = GPTQ
