"""The ``rtn`` compressor: round-to-nearest, weight by weight, without data. Torch is imported when it runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Discriminator, Field, Tag, model_validator

from leptonsdk.errors import UsageError
from leptonsdk.hooks.capabilities import Capabilities
from leptonsdk.hooks.classes import PluginConfig, PostTrainingCompressor, StepContext
from leptonsdk.quantization.scheme import PRESETS, Scheme
from leptonsdk.quantization.scheme_codebooks import CODEBOOK_PRESETS, CodebookScheme, resolve_scheme

if TYPE_CHECKING:
    from torch import nn

    from leptonsdk.checkpoint import Checkpoint
    from leptonsdk.quantization.layers import LinearLayer
    from leptonsdk.quantization.tensor_codebook import AnyTensor


def _kind(scheme: Any) -> str | None:
    if isinstance(scheme, str):
        return "name"
    if isinstance(scheme, CodebookScheme) or (isinstance(scheme, Mapping) and "codebook" in scheme):
        return "codebook"
    return "integers" if isinstance(scheme, Mapping | Scheme) else None


# Chosen by what is there, so that an error tells about one kind and not about all.
AnyScheme = Annotated[
    Annotated[str, Tag("name")] | Annotated[Scheme, Tag("integers")] | Annotated[CodebookScheme, Tag("codebook")],
    Discriminator(
        _kind,
        custom_error_type="scheme",
        custom_error_message="neither a scheme's name nor its fields",
    ),
]


class LayerChoice(PluginConfig):
    """Which layers to quantize, and a scheme in short: ``bit_width`` with ``group_size`` and ``symmetric``."""

    bit_width: int | None = Field(None, description="Bits per weight, 2 to 8, instead of a scheme")
    group_size: int | None = Field(
        None, description="Weights in a row that share a scale; -1: the row. Default: the row for 8 bits, 128 for fewer"
    )
    symmetric: bool | None = Field(None, description="No zero points; default true")
    targets: tuple[str, ...] = Field(
        ("Linear", "Conv1D"),
        description="Layers to quantize: a class, a module's name or the end of it, or re:REGEX. rtn takes Embedding too",
    )
    ignore: tuple[str, ...] = Field(
        ("lm_head",),
        description="Layers to leave in float. One that is tied to an embedding goes with the embedding: in float unless "
        "that is a target, which it may only be where no layer that shares it is ignored",
    )

    @model_validator(mode="after")
    def _scheme_exists(self) -> Self:
        try:
            self.resolve()
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self

    def resolve(self) -> Scheme | CodebookScheme:
        """The scheme meant."""
        raise NotImplementedError

    def _short(self) -> dict[str, Any]:
        return {"bit_width": self.bit_width, "group_size": self.group_size, "symmetric": self.symmetric}


class QuantizerConfig(LayerChoice):
    """What to quantize, and to integers of which scheme: the base for a compressor's config."""

    scheme: str | Scheme | None = Field(
        None,
        description="Preset (W8A16, W4A16, W4A16_ASYM, W3A16, W2A16) or its fields: num_bits, strategy, group_size, symmetric",
    )

    def resolve(self) -> Scheme:
        return Scheme.resolve(self.scheme, **self._short())


class RoundToNearestConfig(LayerChoice):
    """Config of round-to-nearest."""

    scheme: AnyScheme | None = Field(
        None,
        description="Preset (W8A16, W4A16, W4A16_ASYM, W3A16, W2A16; KMEANS4, KMEANS3, NF4) or its fields: num_bits, "
        "strategy, group_size, and codebook (kmeans, nf4) for values that are not at equal steps",
    )
    observer: Literal["mse", "minmax"] = Field(
        "mse", description="Scales of least squared error (mse), or of the whole range (minmax)"
    )
    negative_scales: bool | None = Field(
        None, description="Let symmetric scales be negative, which wins a level; default: for 4 bits and fewer"
    )

    @model_validator(mode="after")
    def _codebooks_have_no_steps(self) -> Self:
        given = self.observer != "mse" or self.negative_scales is not None
        if given and isinstance(self.resolve(), CodebookScheme):
            raise ValueError("observer and negative_scales belong to schemes of equal steps, not to codebooks")
        return self

    def resolve(self) -> Scheme | CodebookScheme:
        return resolve_scheme(self.scheme, **self._short())


ChoiceT = TypeVar("ChoiceT", bound=LayerChoice)


class LayerQuantizer(PostTrainingCompressor[ChoiceT]):
    """Base of compressors that quantize the layers which a `LayerChoice` means: a plan tells where groups do not fit."""

    def scheme(self) -> Scheme | CodebookScheme:
        return self.config.resolve()

    def checks_model(self) -> bool:
        default = LayerChoice.model_fields["targets"].default  # of which a plan knows that the model has some
        return self.config.resolve().group_size is not None or self.config.targets != default

    def check(self, model: nn.Module, done: Collection[str]) -> Collection[str]:
        return [layer.name for layer in self.layers(model, done)]

    def layers(self, model: nn.Module, done: Collection[str]) -> list[LinearLayer]:
        """The layers that are meant (see `layers_to_quantize`)."""
        from leptonsdk.quantization.layers import layers_to_quantize

        config, embeddings = self.config, "embedding" in self.capabilities.quantizes
        scheme = config.resolve()
        return layers_to_quantize(model, scheme, config.targets, config.ignore, done, embeddings=embeddings)


class RoundToNearest(LayerQuantizer[RoundToNearestConfig]):
    """Rounds each weight to the nearest of its integers; scales, or codebooks, are chosen for the least squared error.

    Layers that an earlier step quantized stay as they are, so that two steps make a mixed scheme: first the special
    layers by name, then the rest. An embedding table is a target like any other layer, by its rows: ``targets: [Linear,
    Embedding]``; one that an output layer shares is quantized once, and stays shared.
    """

    name: ClassVar[str] = "rtn"
    config_class: ClassVar[type[PluginConfig]] = RoundToNearestConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"quantizes"}),
        calibration="never",
        preserves_zeros=True,
        preserves_shapes=True,
        quantizes=frozenset({"linear", "embedding"}),
        schemes=(*PRESETS, *CODEBOOK_PRESETS),
        deterministic=True,
        devices=("cpu", "cuda"),
        formats=("compressed-tensors", "gptq", "safetensors"),
    )
    examples = (
        {"bit_width": 4, "group_size": 16},
        {"scheme": {"codebook": "nf4", "strategy": "group", "group_size": 16}},
    )

    def compress(self, checkpoint: Checkpoint, context: StepContext) -> Checkpoint:
        """The checkpoint with integers, and a copy of its model that computes with them.

        Raises:
            UsageError: No layer is meant, groups do not fit some, or one cannot be stored.
        """
        from leptonsdk.quantization.codebooks import fit_codebook
        from leptonsdk.quantization.rtn import round_to_nearest

        config, scheme = self.config, self.config.resolve()
        layers = self.layers(checkpoint.model, checkpoint.quantized)
        found: dict[str, AnyTensor] = {}
        for done, layer in enumerate(layers):
            context.progress(done, len(layers), layer.name)
            weight = layer.weight.detach().to(context.device)
            try:
                if isinstance(scheme, CodebookScheme):
                    tensor: AnyTensor = fit_codebook(weight, scheme)
                else:
                    tensor = round_to_nearest(
                        weight,
                        scheme,
                        scale_dtype=checkpoint.scale_dtype,
                        observer=config.observer,
                        negative_scales=config.negative_scales,
                    )
            except UsageError as error:
                raise UsageError(error.message, where=f"layer '{layer.name}'", hint=error.hint) from error
            found[layer.name] = tensor.to("cpu")
        context.progress(len(layers), len(layers), "done")
        return checkpoint.with_integers(found)
