"""The conformance kit on `CoreMLBackend`."""

from leptonsdk_coreml import CoreMLBackend

from leptonsdk.testing import BackendConformance


class TestConformance(BackendConformance):
    plugin = CoreMLBackend
