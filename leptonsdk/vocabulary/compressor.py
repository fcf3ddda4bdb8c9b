"""The ``trim_vocabulary`` compressor: keeps the tokens that the calibration data has. Torch is imported when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from leptonsdk.errors import UsageError
from leptonsdk.hooks.capabilities import Capabilities
from leptonsdk.hooks.classes import PluginConfig, PostTrainingCompressor, StepContext

if TYPE_CHECKING:
    from leptonsdk.checkpoint import Checkpoint


class TrimVocabularyConfig(PluginConfig):
    """Which tokens stay, besides special tokens and the pieces that any text can be put together from."""

    keep: int | None = Field(
        None, ge=1, description="Tokens at most, the most frequent first; default: all that the data has"
    )
    min_count: int = Field(1, ge=1, description="Times that a token must occur in the data to stay")
    always: tuple[str, ...] = Field((), description="Tokens that stay in any case, as they stand in the vocabulary")
    batch_size: int = Field(32, ge=1, description="Texts per calibration batch")


class TrimVocabulary(PostTrainingCompressor[TrimVocabularyConfig]):
    """Drops the tokens that the calibration data does not have, from the tokenizer and from the embeddings.

    With neither ``keep`` nor ``min_count``, a text of that data keeps exactly its tokens, so the model's outputs for it do not
    change. Other texts may be split into more and shorter tokens; none becomes unknown that was not. A decoder can no
    longer generate what was dropped.

    Fast tokenizers of the models WordPiece, BPE and Unigram.
    """

    name: ClassVar[str] = "trim_vocabulary"
    config_class: ClassVar[type[PluginConfig]] = TrimVocabularyConfig
    capabilities: ClassVar[Capabilities] = Capabilities(
        effects=frozenset({"shrinks"}),
        calibration="required",
        preserves_zeros=True,
        preserves_shapes=False,
        deterministic=True,
        devices=("cpu", "cuda"),
        may_not_follow=frozenset({"quantizes"}),
    )

    def compress(self, checkpoint: Checkpoint, context: StepContext) -> Checkpoint:
        """The checkpoint with a copy of its model and tokenizer that know fewer tokens.

        Raises:
            UsageError: There is no fast tokenizer of a known model, or no calibration data; a token of ``always`` is not in
                the vocabulary; ``keep`` is less than what has to stay; or weights are quantized already.
        """
        from leptonsdk.quantization.library_layers import refuse_library_layers
        from leptonsdk.vocabulary.counting import count_tokens
        from leptonsdk.vocabulary.ids import config_ids
        from leptonsdk.vocabulary.rows import check_rows, trim_model
        from leptonsdk.vocabulary.selection import select_tokens
        from leptonsdk.vocabulary.tokenizer import read_definition, rebuild, tokenizer_of, with_tokenizer

        config, model = self.config, checkpoint.model
        refuse_library_layers(model)
        if checkpoint.quantized:
            raise UsageError("its weights are quantized already", where=self.name, hint="trim the vocabulary first")
        tokenizer = tokenizer_of(checkpoint.processor)
        definition = read_definition(tokenizer)
        size = check_rows(model)
        named = config_ids(model)
        counts = count_tokens(context.calibration(config.batch_size), context.progress)
        if not counts:
            raise UsageError("the calibration data holds no token", hint="check `data.calibration`")
        kept = select_tokens(
            definition, counts, named, keep=config.keep, min_count=config.min_count, always=config.always
        )
        rows = [definition.ids[token] for token in kept]
        if beyond := [token for token, row in zip(kept, rows, strict=True) if row >= size]:
            raise UsageError(f"the model has no embedding for the token '{beyond[0]}'", where=self.name)
        known = set(definition.ids.values())
        rows += sorted(i for i in named if i not in known and i < size)  # ids that configs name and no token has
        smaller = rebuild(tokenizer, definition, kept, context.folder)
        context.progress(1, 1, f"{len(rows)} of {size} rows kept")
        return checkpoint.replace(
            model=trim_model(model, rows), processor=with_tokenizer(checkpoint.processor, smaller)
        )
