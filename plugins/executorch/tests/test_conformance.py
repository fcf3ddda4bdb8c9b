"""The conformance kit on `ExecuTorchBackend`."""

from leptonsdk_executorch import ExecuTorchBackend

from leptonsdk.testing import BackendConformance


class TestConformance(BackendConformance):
    plugin = ExecuTorchBackend
