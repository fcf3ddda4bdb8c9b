"""The conformance kit on `BitsAndBytesCompressor`."""

from leptonsdk_bitsandbytes import BitsAndBytesCompressor

from leptonsdk.testing import CompressorConformance


class TestConformance(CompressorConformance):
    plugin = BitsAndBytesCompressor
