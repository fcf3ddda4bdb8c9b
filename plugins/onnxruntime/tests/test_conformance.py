"""The conformance kit on `OnnxRuntimeBackend`."""

from leptonsdk_onnxruntime import OnnxRuntimeBackend

from leptonsdk.testing import BackendConformance


class TestConformance(BackendConformance):
    plugin = OnnxRuntimeBackend
