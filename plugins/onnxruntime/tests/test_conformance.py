"""The conformance kit on `OnnxRuntimeBackend`."""

import pytest
from leptonsdk_onnxruntime import OnnxRuntimeBackend

from leptonsdk.testing import BackendConformance


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> None:
    """Not here: the kit watches a whole export."""


class TestConformance(BackendConformance):
    plugin = OnnxRuntimeBackend
