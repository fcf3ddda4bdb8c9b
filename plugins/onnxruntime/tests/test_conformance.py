"""The conformance kit on `OnnxRuntimeBackend`."""

import pytest
from leptonsdk_onnxruntime import OnnxRuntimeBackend

from leptonsdk.testing import BackendConformance


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> None:
    """Not here: the kit's models have the classes of this plugin's own, and other weights."""


class TestConformance(BackendConformance):
    plugin = OnnxRuntimeBackend
