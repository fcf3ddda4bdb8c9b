"""One training run's distillation: the teacher, the projections, the cache, and the loss made of their terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leptonsdk.errors import UsageError
from leptonsdk.hooks import StepContext
from leptonsdk_distillation.cache import LogitsCache, join, row_keys, row_lengths, split
from leptonsdk_distillation.config import DistillationConfig
from leptonsdk_distillation.items import Head, attended_positions, counted_positions, flat_spans, is_span, logits_of
from leptonsdk_distillation.layers import (
    EMBEDDINGS,
    add_projections,
    as_positions,
    last_state,
    layer_pairs,
    pooled,
    projected,
    remove_projections,
    stack_names,
)
from leptonsdk_distillation.teacher import find_teacher
from leptonsdk_distillation.terms import (
    TopK,
    attention_divergence,
    binary_divergence,
    cosine_distance,
    divergence,
    squared_error,
    top_k,
)

_WHERE = "distillation"


class Session:
    """What lives from `prepare` to `finalize`.

    Attributes:
        outputs_wanted: More arguments for the forward of both models.
    """

    def __init__(self, config: DistillationConfig, teacher: Any, student: nn.Module, context: StepContext) -> None:
        if config.alpha == 0 and not config.compares_states:
            raise UsageError("alpha is 0 and no other weight is given: nothing is distilled", where=_WHERE)
        self.config, self.student = config, student
        self.head = Head.of(student)
        self.teacher = find_teacher(config, teacher, student, self.head, context.base)
        self.outputs_wanted: dict[str, bool] = {}
        if config.hidden > 0 or config.embeddings > 0:
            self.outputs_wanted["output_hidden_states"] = True
        self._attention_before: str | None = None
        if config.attention > 0:
            self.outputs_wanted["output_attentions"] = True
            self._attention_before = _compute_attention_eagerly(student)
            _compute_attention_eagerly(self.teacher.model)
        add_projections(
            student,
            self.teacher.model,
            stack_names(self.head.two_stacks, "hidden_states") if config.hidden > 0 else (),
            two_stacks=self.head.two_stacks,
            embeddings=config.embeddings > 0,
            seed=context.seed,
        )
        self.cache: LogitsCache | None = None
        if config.cache and not config.compares_states:
            fingerprint = self.teacher.fingerprint(temperature=config.temperature, top_k=config.top_k)
            self.cache = LogitsCache(context.folder / "teacher", fingerprint)
        self._sums: dict[str, Tensor] = {}
        self._calls = 0

    def loss(self, model: nn.Module, inputs: Mapping[str, Any], outputs: Any, loss: Tensor | None) -> Tensor:
        """See `Distillation.loss`."""
        if not isinstance(outputs, Mapping):
            raise UsageError("the model's outputs have no names", where=_WHERE, hint="leave return_dict on")
        device = next(self.student.parameters()).device
        logits = logits_of(outputs) if self.config.alpha > 0 else None
        total = torch.zeros((), device=device) if loss is None else loss
        task = loss
        terms: dict[str, Tensor] = {}
        if logits is not None and self.cache is not None:
            terms["distillation"] = self._logits_term(logits, self._cached(logits, inputs, outputs), inputs, outputs)
        else:
            if logits is None and not self.config.compares_states:
                raise UsageError("the model has no logits", where=_WHERE, hint="set `embeddings` or `hidden`")
            theirs = self.teacher(inputs, device, self.outputs_wanted)
            if logits is not None:
                terms["distillation"] = self._logits_term(logits, self._aligned(theirs), inputs, outputs)
            terms |= self._state_terms(inputs, outputs, theirs)
        if "distillation" in terms:
            total = (1 - self.config.alpha) * total + self.config.alpha * terms["distillation"]
        for name in terms.keys() - {"distillation"}:
            total = total + getattr(self.config, name) * terms[name]
        for name, term in (terms if task is None else {"task": task, **terms}).items():
            self._sums[name] = self._sums.get(name, 0.0) + term.detach()
        self._calls += 1
        return total

    def _aligned(self, theirs: Mapping[str, Any]) -> Tensor:
        logits = logits_of(theirs)
        if logits is None:
            raise UsageError("the teacher has no logits", where=_WHERE, hint="set alpha: 0, or take one with a head")
        return self.teacher.aligned(logits)

    def _logits_term(
        self, logits: Tensor, target: Tensor | TopK, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> Tensor:
        if self.teacher.size is not None:
            logits = logits[..., : self.teacher.size]
        if isinstance(target, Tensor) and target.shape != logits.shape:
            raise UsageError(
                f"the teacher's logits are {list(target.shape)}, the student's {list(logits.shape)}", where=_WHERE
            )
        if is_span(outputs) and isinstance(target, Tensor):
            attended = attended_positions(self.student, inputs, logits)
            return divergence(flat_spans(logits, attended), flat_spans(target, attended), self.config.temperature)
        if logits.ndim == 3:
            counted = counted_positions(self.head, inputs, self._attended(logits, inputs, outputs))
            logits, target = logits[counted], target[counted]
        if isinstance(target, Tensor) and self.head.compared != "classes":
            if self.head.compared == "numbers":
                return squared_error(logits, target)
            return binary_divergence(logits, target, self.config.temperature)
        return divergence(logits, target, self.config.temperature)

    def _attended(self, logits: Tensor, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Tensor:
        decoder = self.head.two_stacks and not is_span(outputs)
        return attended_positions(self.student, inputs, logits, decoder=decoder)

    def _cached(self, logits: Tensor, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Tensor | TopK:
        """The teacher's logits, or their largest, from the cache when that has every row, else from the teacher."""
        assert self.cache is not None
        labels = inputs.get("labels")
        keys = row_keys(
            self.teacher.inputs(inputs),
            labels if isinstance(labels, Tensor) and labels.ndim == 2 else None,
            len(logits),
        )
        positions = logits.shape[1] if logits.ndim == 3 else None
        rows = self.cache.get(keys)
        if rows is not None and (positions is None or all(len(t) <= positions for row in rows for t in row.values())):
            parts = join(rows, positions, logits.device)
        else:
            target = self._aligned(self.teacher(inputs, logits.device, {}))
            parts = {"logits": target}
            k = self.config.top_k
            if k is not None and k < target.shape[-1] and self.head.compared == "classes" and not is_span(outputs):
                kept = top_k(target, k, self.config.temperature)
                parts = {"log_probs": kept.log_probs, "indices": kept.indices.int()}
            lengths = None if positions is None else row_lengths(self._attended(logits, inputs, outputs))
            self.cache.put(keys, split(parts, lengths))
        return parts["logits"] if "logits" in parts else TopK(parts["log_probs"], parts["indices"].long())

    def _state_terms(
        self, inputs: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.config.hidden > 0:
            terms["hidden"] = self._layers_term("hidden_states", inputs, ours, theirs, _hidden_error)
        if self.config.attention > 0:
            terms["attention"] = self._layers_term("attentions", inputs, ours, theirs, _attention_error)
        if self.config.embeddings > 0:
            terms["embeddings"] = self._embeddings_term(inputs, ours, theirs)
        return terms

    def _layers_term(
        self,
        kind: str,
        inputs: Mapping[str, Any],
        ours: Mapping[str, Any],
        theirs: Mapping[str, Any],
        error: Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor],
    ) -> Tensor:
        """The mean over stacks and pairs of layers. Attention maps begin with layer 1."""
        first = 0 if kind == "hidden_states" else 1
        terms: list[Tensor] = []
        for number, name in enumerate(stack_names(self.head.two_stacks, kind)):
            student, teacher = _layers(ours, name, "student"), _layers(theirs, name, "teacher")
            student = projected(ours, name) or student

            def attended(like: Tensor, decoder: bool = number == 1) -> Tensor:
                return attended_positions(self.student, inputs, like, decoder=decoder)

            pairs = layer_pairs(self.config.layer_map, len(student) - 1 + first, len(teacher) - 1 + first)
            terms += [error(student[i - first], teacher[j - first], attended) for i, j in pairs if min(i, j) >= first]
        if not terms:
            raise UsageError("no layer of the map has an attention map (they begin with 1)", where=_WHERE)
        return torch.stack(terms).mean()

    def _embeddings_term(self, inputs: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Tensor:
        student, teacher = projected(ours, EMBEDDINGS), last_state(theirs)
        student = last_state(ours) if student is None else student
        if student is None or teacher is None:
            raise UsageError("the models return no last states to compare", where=_WHERE, hint="set embeddings: 0")
        _check_shapes(student, teacher, "last states")
        attended = attended_positions(self.student, inputs, student)
        return cosine_distance(
            pooled(student, attended, self.config.pooling), pooled(teacher, attended, self.config.pooling)
        )

    def logs(self) -> dict[str, float]:
        """See `Distillation.logs`."""
        logs = {f"{name}_loss": float(total) / self._calls for name, total in self._sums.items()}
        if "distillation" in self._sums:
            logs["temperature"] = self.config.temperature
        if self.cache is not None and self.cache.asked:
            logs["teacher_cache_hit_rate"] = self.cache.served / self.cache.asked
            self.cache.asked = self.cache.served = 0
        self._sums, self._calls = {}, 0
        return logs

    def close(self, model: nn.Module) -> None:
        """Leave nothing of this in the model; write what of the cache is not on disk."""
        if self.cache is not None:
            self.cache.flush()
        remove_projections(model)
        if self._attention_before is not None:
            model.set_attn_implementation(self._attention_before)  # type: ignore[operator]


def _compute_attention_eagerly(model: Any) -> str | None:
    """Have a model compute attention so that it can return the maps; the way it did before, or None where it cannot say."""
    before = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if before in (None, "eager") or not hasattr(model, "set_attn_implementation"):
        return None
    model.set_attn_implementation("eager")
    return str(before)


def _layers(outputs: Mapping[str, Any], name: str, who: str) -> tuple[Tensor, ...]:
    """The tensors of each layer, or a `UsageError` where the model does not return them."""
    layers = outputs.get(name)
    if not layers or any(layer is None for layer in layers):
        eager = name.endswith("attentions")
        raise UsageError(
            f"the {who} returns no {name.replace('_', ' ')}",
            where=_WHERE,
            hint='load it with attn_implementation="eager"' if eager else "set hidden: 0",
        )
    return tuple(layers)


def _hidden_error(student: Tensor, teacher: Tensor, attended: Callable[[Tensor], Tensor]) -> Tensor:
    student, teacher = as_positions(student), as_positions(teacher)
    _check_shapes(student, teacher, "hidden states")
    counted = attended(student)
    return squared_error(student[counted], teacher[counted])


def _attention_error(student: Tensor, teacher: Tensor, attended: Callable[[Tensor], Tensor]) -> Tensor:
    _check_shapes(student[:, 0], teacher[:, 0], "attention maps")
    return attention_divergence(student, teacher, attended(student[:, 0]))


def _check_shapes(student: Tensor, teacher: Tensor, what: str) -> None:
    if student.shape != teacher.shape:
        raise UsageError(
            f"the student's {what} are {list(student.shape)}, the teacher's {list(teacher.shape)}: not comparable",
            where=_WHERE,
            hint="choose other pairs in layer_map, or leave this term out",
        )
