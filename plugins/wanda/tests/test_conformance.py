"""The conformance kit on `Wanda`."""

from leptonsdk_wanda import Wanda

from leptonsdk.testing import CompressorConformance


class TestConformance(CompressorConformance):
    plugin = Wanda
