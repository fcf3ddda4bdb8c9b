"""Generation of encoder-decoders in any runtime: how the decoder's answer starts, what it must not say, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from leptonsdk.errors import UsageError
from leptonsdk.exporting.companions import pad_token
from leptonsdk.exporting.generation import Step, generate, logits_processors

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

_NEW_TOKENS = 20  # transformers' default


@dataclass(frozen=True)
class Seq2SeqSettings:
    """What a model's own ``generate`` takes from its configs; JSON data, to stand in an artifact's details.

    Attributes:
        start: The tokens that every answer starts with. None in it: a language's token, to be detected.
        eos: Tokens that end a row.
        pad: Fills rows that have ended.
        max_length: Of start and answer together; for speech of the answer alone.
        max_positions: The decoder's limit, if it has one.
        suppress: Never said.
        begin_suppress: Not said first.
        rules: Other processors of transformers that are in force, by their names in a generation config.
        speech: Whisper: the answer comes back without start and end tokens.
        languages: Whisper: the tokens of languages (``"<|en|>"``).
        tasks: Whisper: the tokens of ``transcribe`` and ``translate``.
        no_timestamps: Whisper: the token that ends the start.
    """

    start: list[int | None]
    eos: list[int]
    pad: int
    max_length: int
    max_positions: int | None = None
    suppress: list[int] = field(default_factory=list)
    begin_suppress: list[int] = field(default_factory=list)
    rules: dict[str, Any] = field(default_factory=dict)
    speech: bool = False
    languages: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    no_timestamps: int | None = None

    @classmethod
    def of(cls, model: Any) -> Seq2SeqSettings:
        """From a model's generation config and config."""
        given, config = model.generation_config, model.config
        first = _either("decoder_start_token_id", given, config)
        if first is None:
            first = _either("bos_token_id", given, config)
        if first is None:
            raise UsageError("no config says which token an answer starts with", hint="set decoder_start_token_id")
        start: list[int | None] = [int(first)]
        eos = _either("eos_token_id", given, config)
        ends = [] if eos is None else [eos] if isinstance(eos, int) else [int(token) for token in eos]
        speech = hasattr(model, "detect_language")  # Whisper's generate differs from everybody's
        if speech and not _either("task", given) and not _either("language", given):
            start += [token for _, token in _either("forced_decoder_ids", given, config) or ()]
        rules = {name: getattr(given, name, None) for name in _RULES}
        settings = cls(
            start=start,
            eos=ends,
            pad=pad_token(model) or 0,
            max_length=int(given.max_length or len(start) + _NEW_TOKENS),
            max_positions=getattr(config, "max_target_positions", None),
            suppress=list(given.suppress_tokens or ()),
            begin_suppress=list(given.begin_suppress_tokens or ()),
            rules={name: value for name, value in rules.items() if value},
            speech=speech,
            languages=dict(_either("lang_to_id", given) or {}),
            tasks=dict(_either("task_to_id", given) or {}),
            no_timestamps=_either("no_timestamps_token_id", given) if speech else None,
        )
        language, task = _either("language", given), _either("task", given)
        if language or task:
            settings = cls(**{**asdict(settings), "start": settings.prompt(language, task)})
        return settings

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def prompt(self, language: str | None = None, task: str | None = None) -> list[int | None]:
        """The tokens that an answer starts with, None where a language is to be detected.

        Args:
            language: Whisper: a code (``en``).
            task: Whisper: ``transcribe`` or ``translate``.

        Raises:
            UsageError: The model does not know them.
        """
        start = list(self.start)
        if language is not None:
            start[1:2] = [_known(f"<|{language.strip('<|>').lower()}|>", self.languages, "language")]
        elif self.languages and len(start) == 1:
            start.append(None)
        if task is not None or (language is not None and self.tasks):
            start = [token for token in start if token not in self.tasks.values()]
            before = start.index(self.no_timestamps) if self.no_timestamps in start else len(start)
            start.insert(before, _known(task or "transcribe", self.tasks, "task"))
        if self.no_timestamps is not None and start[-1] != self.no_timestamps:
            start.append(self.no_timestamps)
        return start


def generate_seq2seq(
    step: Step,
    batch_size: int,
    settings: Seq2SeqSettings | Mapping[str, Any],
    *,
    max_new_tokens: int | None = None,
    language: str | None = None,
    task: str | None = None,
    do_sample: bool = False,
    seed: int | None = None,
    **processors: Any,
) -> torch.Tensor:
    """The ids that transformers' own ``generate`` returns for an encoder-decoder, greedy or sampled.

    Args:
        step: The runtime's decoder, which has the encoder's output already.
        batch_size: Rows.
        settings: Of the model.
        max_new_tokens: Default: the settings' greatest length.
        language: Whisper only; default: detected where the model knows several.
        task: Whisper only.
        do_sample: Draw tokens instead of taking the likeliest.
        seed: For drawing.
        processors: More of `logits_processors`, by name.

    Returns:
        ``[batch, length]`` with the start tokens; of Whisper the answer alone, without end token, padded on the right.
    """
    settings = settings if isinstance(settings, Seq2SeqSettings) else Seq2SeqSettings(**settings)
    prompt = settings.prompt(language, task)
    begin = len(prompt)
    start = torch.tensor([[-1 if token is None else token for token in prompt]]).repeat(batch_size, 1)
    if None in prompt:
        start[:, prompt.index(None)] = _detect(step, start[:, :1], settings)
    if max_new_tokens is None:
        longest = settings.max_length + (begin if settings.speech else 0)
        max_new_tokens = min(longest, settings.max_positions or longest) - begin
    if settings.max_positions is not None and begin + max_new_tokens > settings.max_positions:
        raise UsageError(
            f"{max_new_tokens} new tokens after {begin} to start with are more than the decoder's {settings.max_positions} positions",
            hint=f"max_new_tokens={settings.max_positions - begin} at most",
        )
    ids = generate(
        step,
        start,
        max_new_tokens=max_new_tokens,
        eos_token_id=settings.eos,
        pad_token_id=settings.pad,
        processors=_processors(settings, begin, max_new_tokens, processors),
        do_sample=do_sample,
        seed=seed,
    )
    return _bare(ids[:, begin:], settings) if settings.speech else ids


def torch_step(model: Any, inputs: Mapping[str, torch.Tensor]) -> Step:
    """The source model as a step, without a cache: short answers to compare with."""
    encoded = model.get_encoder()(**inputs, return_dict=True)
    mask = {name: value for name, value in inputs.items() if name == "attention_mask"}

    def step(tokens: torch.Tensor, _: Any, __: Any, before: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        ids = tokens if before is None else torch.cat([before, tokens], dim=1)
        return model(**mask, encoder_outputs=encoded, decoder_input_ids=ids).logits[:, -1], ids

    return step


@torch.no_grad()
def with_decoder_inputs(model: Any, batch: Mapping[str, torch.Tensor], new_tokens: int = 8) -> dict[str, torch.Tensor]:
    """A batch with the ``decoder_input_ids`` of the model's own greedy answer, so that one call of it can be compared."""
    settings = Seq2SeqSettings.of(model)
    rows = next(iter(batch.values())).shape[0]
    ids = generate_seq2seq(torch_step(model, batch), rows, settings, max_new_tokens=new_tokens)
    if settings.speech:  # comes without its start
        known = [token for token in settings.prompt() if token is not None]
        ids = torch.cat([torch.tensor(known).repeat(rows, 1), ids], dim=1)
    return {**batch, "decoder_input_ids": ids}


_RULES = ("repetition_penalty", "no_repeat_ngram_size", "min_length", "forced_bos_token_id", "forced_eos_token_id")


def _processors(
    settings: Seq2SeqSettings, begin: int, max_new_tokens: int, more: Mapping[str, Any]
) -> LogitsProcessorList:
    """In the order in which transformers' ``generate`` has them."""
    from transformers.generation import (
        ForcedBOSTokenLogitsProcessor,
        ForcedEOSTokenLogitsProcessor,
        LogitsProcessorList,
        MinLengthLogitsProcessor,
        NoRepeatNGramLogitsProcessor,
    )

    rules = settings.rules
    penalty = more.get("repetition_penalty", rules.get("repetition_penalty"))
    found = logits_processors(repetition_penalty=penalty)
    if "no_repeat_ngram_size" in rules:
        found.append(NoRepeatNGramLogitsProcessor(rules["no_repeat_ngram_size"]))
    if "min_length" in rules and settings.eos:
        found.append(MinLengthLogitsProcessor(rules["min_length"], settings.eos, device="cpu"))
    if "forced_bos_token_id" in rules:
        found.append(ForcedBOSTokenLogitsProcessor(rules["forced_bos_token_id"]))
    if "forced_eos_token_id" in rules:
        found.append(ForcedEOSTokenLogitsProcessor(begin + max_new_tokens, rules["forced_eos_token_id"], device="cpu"))
    own = {"suppress_tokens": settings.suppress, "begin_suppress_tokens": settings.begin_suppress, "begin": begin}
    rest = {name: value for name, value in more.items() if name != "repetition_penalty"}
    return LogitsProcessorList([*found, *logits_processors(**{**own, **rest})])


def _detect(step: Step, start: torch.Tensor, settings: Seq2SeqSettings) -> torch.Tensor:
    """The likeliest language after the first token, ``[batch]``."""
    logits, _ = step(start, torch.ones_like(start), torch.zeros_like(start), None)
    tokens = torch.tensor(sorted(settings.languages.values()))
    return tokens[logits[:, tokens].argmax(-1)]


def _bare(ids: torch.Tensor, settings: Seq2SeqSettings) -> torch.Tensor:
    """Each row up to its end token; shorter ones padded."""
    ended = torch.isin(ids, torch.tensor(settings.eos, dtype=torch.long)).int().cumsum(1) > 0
    ids = ids.masked_fill(ended, settings.pad)
    return ids[:, : int((~ended).sum(1).max())]


def _either(name: str, *configs: Any) -> Any:
    """The first of the configs' values that is there."""
    values = (getattr(config, name, None) for config in configs)
    return next((value for value in values if value is not None), None)


def _known(name: str, tokens: Mapping[str, int], what: str) -> int:
    if name not in tokens:
        known = ", ".join(sorted(tokens)) or "none"
        raise UsageError(f"the model has no token for the {what} '{name}'", hint=f"it knows: {known}")
    return tokens[name]
