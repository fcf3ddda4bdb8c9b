"""Mutants of the tiny post-training compressors, each with one fault, under the check that is meant for it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from typing import Any

from pydantic import ConfigDict, field_validator

from leptonsdk.errors import UsageError
from leptonsdk.quantization import Scheme, weight_of
from mutants.plugins import Pruner, PrunerConfig, Quantizer, chosen


class BareConfig(PrunerConfig):
    sparsity: float = 0.5


class NoDescription(Pruner):
    config_class = BareConfig


class HalvingConfig(PrunerConfig):
    @field_validator("sparsity", mode="before")
    @classmethod
    def _percent(cls, value: Any) -> Any:
        return value / 2


class ConfigNotFromYaml(Pruner):
    config_class = HalvingConfig
    examples = ({"sparsity": 0.8},)


class LooseConfig(PrunerConfig):
    model_config = ConfigDict(extra="ignore")


class TakesAnyKey(Pruner):
    config_class = LooseConfig


class Reseeds(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        import torch

        torch.manual_seed(12345)


class SetsThreads(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        import torch

        torch.set_num_threads(torch.get_num_threads() + 1)


class PhonesHome(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        import socket

        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), timeout=0.01).close()


class ChangesItsInput(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        next(checkpoint.model.parameters()).data.mul_(1.001)


class Pickles(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        import torch

        torch.save(model.state_dict(), context.folder / "done.pt")


class TakesTextOnly(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        model.config.to_dict()["vocab_size"]


class NoOp(Pruner):
    def sparsity(self) -> None:
        return None

    def compress(self, checkpoint: Any, context: Any) -> Any:
        self.norms(checkpoint.model, context)
        return checkpoint.replace(model=copy.deepcopy(checkpoint.model))


class NotANumber(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        for layer in chosen(model, self.config).values():
            if layer.bias is not None:
                layer.bias.data[0] = float("nan")


class DrawsGlobally(Pruner):
    """By the global generator's seed, which it does not move."""

    def prune(self, weight: Any, norms: Any) -> None:
        import torch

        super().prune(weight, norms)
        generator = torch.Generator().manual_seed(torch.initial_seed())
        weight.mul_(1 + 1e-4 * torch.rand(weight.shape, generator=generator))


class Unties(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        import torch

        head = model.get_output_embeddings()
        if head is not None:
            head.weight = torch.nn.Parameter(head.weight.detach().clone())


def _nothing(module: Any, inputs: Any, outputs: Any) -> None:
    return None


class LeaksHooks(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        model.base_model.register_forward_hook(_nothing)


class LeavesTrainMode(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        model.train()


class ForgetsTargets(Pruner):
    def __init__(self, config: Any) -> None:
        super().__init__(config.model_copy(update={"targets": ("Linear", "Conv1D")}))


class ForgetsIgnore(Pruner):
    def __init__(self, config: Any) -> None:
        super().__init__(config.model_copy(update={"ignore": ("lm_head",)}))


class Densifies(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        before = chosen(checkpoint.model, self.config)
        for name, layer in chosen(model, self.config).items():
            weight_of(layer).data[weight_of(before[name]) == 0] = 1e-3


class CutsPositions(Pruner):
    """Fewer positions, although it says that shapes stay."""

    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        import torch

        if model.config.model_type == "bert":
            table = model.base_model.embeddings.position_embeddings
            table.weight = torch.nn.Parameter(table.weight.detach()[:32].clone())
            table.num_embeddings = model.config.max_position_embeddings = 32
            for name in ("position_ids", "token_type_ids"):
                setattr(model.base_model.embeddings, name, getattr(model.base_model.embeddings, name)[:, :32])


class PrunesLess(Pruner):
    def share(self) -> float:
        return self.config.sparsity / 2


class LiesAboutBits(Quantizer):
    def scheme(self) -> Scheme:
        return Scheme.resolve(bit_width=4, group_size=16)


class LiesAboutFormats(Quantizer):
    capabilities = dataclasses.replace(Quantizer.capabilities, formats=("gptq",))


class ConfigIsNotTheModel(Pruner):
    def finish(self, model: Any, checkpoint: Any, context: Any) -> None:
        model.config.layer_norm_eps = 0.5


class GuessesCalibration(Pruner):
    def norms(self, model: Any, context: Any) -> dict[str, Any]:
        if context.batches is None:
            return dict.fromkeys(chosen(model, self.config), 1.0)
        return super().norms(model, context)


class Mumbles(Pruner):
    def nothing(self) -> None:
        raise ValueError("max() arg is an empty sequence")


class Swallows(Quantizer):
    def compress(self, checkpoint: Any, context: Any) -> Any:
        try:
            return super().compress(checkpoint, context)
        except Exception:
            return checkpoint


class TerseError(UsageError):
    def __str__(self) -> str:
        return self.message


class HidesWhoseErrorItIs(Pruner):
    def compress(self, checkpoint: Any, context: Any) -> Any:
        try:
            return super().compress(checkpoint, context)
        except Exception as error:
            raise TerseError(f"pruning failed: {error}") from error


class WorksOnItsInput(Pruner):
    """Hooks are taken off the input, if nothing comes in between."""

    def norms(self, model: Any, context: Any) -> dict[str, Any]:
        handle = model.base_model.register_forward_hook(_nothing)
        found = super().norms(model, context)
        handle.remove()
        return found


class PrunesTheLargest(Pruner):
    def score(self, weight: Any, norms: Any) -> Any:
        return -super().score(weight, norms)


class ForgetsIntegers(Quantizer):
    def before(self, checkpoint: Any) -> dict[str, Any]:
        return {}


MUTANTS: dict[str, type[Any]] = {
    "config-described": NoDescription,
    "config-round-trips": ConfigNotFromYaml,
    "config-strict": TakesAnyKey,
    "leaves-rng-alone": Reseeds,
    "leaves-settings-alone": SetsThreads,
    "opens-no-connection": PhonesHome,
    "source-unharmed": ChangesItsInput,
    "writes-no-pickle": Pickles,
    "runs-on-every-architecture": TakesTextOnly,
    "effects-are-true": NoOp,
    "weights-finite": NotANumber,
    "deterministic": DrawsGlobally,
    "keeps-ties": Unties,
    "leaves-no-hooks": LeaksHooks,
    "leaves-modes-alone": LeavesTrainMode,
    "honours-targets": ForgetsTargets,
    "honours-ignore": ForgetsIgnore,
    "keeps-zeros": Densifies,
    "keeps-shapes": CutsPositions,
    "sparsity-as-declared": PrunesLess,
    "bits-as-declared": LiesAboutBits,
    "formats-as-declared": LiesAboutFormats,
    "reloads-without-leptonsdk": ConfigIsNotTheModel,
    "refuses-without-calibration": GuessesCalibration,
    "errors-are-clear": Mumbles,
    "errors-come-out": Swallows,
    "interrupted-leaves-no-trace": WorksOnItsInput,
    "better-than-naive": PrunesTheLargest,
    "composes": ForgetsIntegers,
}
MORE: list[tuple[str, type[Any]]] = [("errors-come-out", HidesWhoseErrorItIs)]
