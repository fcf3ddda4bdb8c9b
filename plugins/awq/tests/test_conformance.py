"""The conformance kit on `AWQ`."""

from leptonsdk_awq import AWQ

from leptonsdk.testing import CompressorConformance


class TestConformance(CompressorConformance):
    plugin = AWQ
