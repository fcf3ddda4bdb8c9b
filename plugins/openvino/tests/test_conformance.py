"""The conformance kit on `OpenVINOBackend`."""

from leptonsdk_openvino import OpenVINOBackend

from leptonsdk.testing import BackendConformance


class TestConformance(BackendConformance):
    plugin = OpenVINOBackend
