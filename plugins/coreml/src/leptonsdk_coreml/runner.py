"""Running an artifact: in Core ML on macOS, by reference elsewhere."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import coremltools as ct
import torch

from leptonsdk.artifact import Artifact
from leptonsdk.errors import UsageError
from leptonsdk.exporting import Outputs, complete_inputs, quiet
from leptonsdk_coreml.runner_reference import ReferenceProgram

ON_MACOS = sys.platform == "darwin"
REFERENCE = "reference evaluation, not executed by Core ML"


class CoreMLRunner(ABC):
    """What both ways of running share: types, inputs that can be filled in, output names."""

    runtime: str

    def __init__(self, description: Any) -> None:
        dtypes = ct.proto.FeatureTypes_pb2.ArrayFeatureType
        self.dtypes = {
            value.name: torch.int32 if value.type.multiArrayType.dataType == dtypes.INT32 else torch.float32
            for value in description.input
        }
        self.ranges = {
            value.name: [(r.lowerBound, r.upperBound) for r in value.type.multiArrayType.shapeRange.sizeRanges]
            for value in description.input
        }
        self.output_names = [value.name for value in description.output]
        self.input_names = frozenset(self.dtypes)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """The outputs as torch tensors. Inputs that the program does not read are dropped."""
        feed = {
            name: value.detach().to("cpu", self.dtypes[name])
            for name, value in complete_inputs(inputs, self.input_names).items()
        }
        self._check_sizes(feed)
        found = self.predict(feed)
        return Outputs((name, found[name]) for name in self.output_names)

    @abstractmethod
    def predict(self, feed: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The outputs for a complete feed."""

    def _check_sizes(self, feed: Mapping[str, torch.Tensor]) -> None:
        for name, value in feed.items():
            for axis, (size, (low, high)) in enumerate(zip(value.shape, self.ranges[name], strict=False)):
                if not low <= size <= high:
                    what = ("batch", "length")[axis] if axis < 2 else f"axis {axis}"
                    raise UsageError(
                        f"the input '{name}' has {what} {size}, and the program takes {low} to at most {high}",
                        where="coreml",
                        hint="shorten the input, or export with a larger max_batch_size or max_length",
                    )


class DeviceRunner(CoreMLRunner):
    """Predictions by Core ML itself."""

    def __init__(self, model: Any, precision: str) -> None:
        super().__init__(model.get_spec().description)
        self.model = model
        self.runtime = f"Core ML (coremltools {ct.__version__}, {precision})"

    def predict(self, feed: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        found = self.model.predict({name: value.numpy() for name, value in feed.items()})
        return {name: torch.from_numpy(value) for name, value in found.items()}


class ReferenceRunner(CoreMLRunner):
    """The saved program, operation by operation, in torch. How long that takes says nothing about Core ML."""

    def __init__(self, model: Any, precision: str, threads: int | None) -> None:
        super().__init__(model.get_spec().description)
        self.program = ReferenceProgram(model)
        self.threads = threads
        computes = "fp16 results, sums in fp32" if self.program.rounds else "fp32"
        self.runtime = f"coreml {precision}: {REFERENCE} (coremltools {ct.__version__}, {computes})"

    def predict(self, feed: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            return self.program(feed)
        finally:
            torch.set_num_threads(before)


def load_runner(artifact: Artifact, threads: int | None) -> CoreMLRunner:
    """The runner for an artifact."""
    return runner_of(open_model(str(artifact.folder / artifact.entry)), artifact.precision, threads)


def open_model(path: str) -> Any:
    """A package as coremltools has it; off macOS it is not loaded into Core ML."""
    with quiet():
        return ct.models.MLModel(path, skip_model_load=not ON_MACOS)


def runner_of(model: Any, precision: str, threads: int | None = None) -> CoreMLRunner:
    """The runner for a model on this system."""
    return DeviceRunner(model, precision) if ON_MACOS else ReferenceRunner(model, precision, threads)
