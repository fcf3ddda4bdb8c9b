"""OpenVINO's and NNCF's converters without progress lines, and without the usage statistics that they send by default."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest.mock import patch

from leptonsdk.exporting import quiet


@contextlib.contextmanager
def converting() -> Iterator[None]:
    """Quiet, and nothing sent: ``openvino_telemetry`` takes a missing consent file for consent, and every event passes its
    sender, whoever made the `Telemetry` object."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet())
        with contextlib.suppress(ImportError):
            from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker
            from openvino_telemetry.utils.sender import TelemetrySender

            stack.enter_context(patch.object(OptInChecker, "check", lambda *_, **__: ConsentCheckResult.DECLINED))
            stack.enter_context(patch.object(TelemetrySender, "send", lambda *_, **__: None))
        yield
