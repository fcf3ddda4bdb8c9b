"""The terms of the loss: pure functions of the student's and the teacher's tensors. Each is a mean over items, in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class TopK:
    """A teacher's distribution as its largest probabilities and one bucket for all the rest.

    Attributes:
        log_probs: ``[..., k + 1]``, at the temperature; the last is the rest's.
        indices: ``[..., k]``, the classes.
    """

    log_probs: Tensor
    indices: Tensor

    def __getitem__(self, index: Tensor) -> TopK:
        return TopK(self.log_probs[index], self.indices[index])


def top_k(logits: Tensor, k: int, temperature: float) -> TopK:
    """The k largest of ``[..., classes]`` logits, k below the number of classes."""
    log_probs = functional.log_softmax(logits.float() / temperature, dim=-1)
    values, indices = log_probs.topk(k, dim=-1)
    return TopK(torch.cat([values, _rest(log_probs, indices)], dim=-1), indices)


def _rest(log_probs: Tensor, indices: Tensor) -> Tensor:
    """``[..., 1]``: the log of what all other classes have together."""
    return log_probs.scatter(-1, indices, -torch.inf).logsumexp(dim=-1, keepdim=True)


def divergence(student: Tensor, teacher: Tensor | TopK, temperature: float = 1.0) -> Tensor:
    """``T² KL(teacher || student)`` at temperature T (arXiv 1503.02531, section 2), a mean over items.

    T² makes the gradient's size independent of T. With a `TopK` the student's probabilities are summed into the same
    buckets, which gives a lower bound of the whole divergence, equal to it where the rest is one class.

    Args:
        student: Logits ``[items, classes]``.
        teacher: The same, or a `TopK` made at the same temperature.
        temperature: T.
    """
    log_student = functional.log_softmax(student.float() / temperature, dim=-1)
    if isinstance(teacher, TopK):
        log_teacher = teacher.log_probs.float()
        rest = _rest(log_student, teacher.indices)
        log_student = torch.cat([log_student.gather(-1, teacher.indices), rest], dim=-1)
    else:
        log_teacher = functional.log_softmax(teacher.float() / temperature, dim=-1)
    return (
        temperature**2
        * functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
        / _at_least_one(student)
    )


def binary_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """The same where every class is a yes or no of its own (multi-label): a mean over items and classes."""
    student, teacher = (torch.stack([t, torch.zeros_like(t)], dim=-1).flatten(0, -2) for t in (student, teacher))
    return divergence(student, teacher, temperature)


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over items and widths of ``[items, width]`` tensors: of regression logits, or of hidden states as in TinyBERT
    (arXiv 1909.10351, equations 8 and 9)."""
    return (student.float() - teacher.float()).square().mean(-1).sum() / _at_least_one(student)


def attention_divergence(student: Tensor, teacher: Tensor, queries: Tensor) -> Tensor:
    """KL of attention maps (MobileBERT, arXiv 2004.02984, section 3.4): a mean over heads and counted queries.

    TinyBERT compares scores from before the softmax, which transformers does not return. Where the numbers of heads differ,
    the heads' mean is compared.

    Args:
        student: Probabilities ``[batch, heads, queries, keys]``.
        teacher: The same, of any number of heads.
        queries: ``[batch, queries]``, true where a query counts.
    """
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    student, teacher = (t.float().transpose(1, 2)[queries].flatten(0, 1) for t in (student, teacher))
    # Masked keys have probability zero in both. What dropout set to zero in the student's map is left out.
    tiny = torch.finfo(torch.float32).tiny
    terms = teacher * (teacher.clamp_min(tiny).log() - student.clamp_min(tiny).log())
    return terms.masked_fill(student == 0, 0.0).sum() / _at_least_one(student)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - cosine``, a mean over the items of ``[items, width]`` tensors."""
    cosine = functional.cosine_similarity(student.float(), teacher.float(), dim=-1)
    return (1 - cosine).sum() / _at_least_one(student)


def _at_least_one(items: Tensor) -> int:
    return max(items.shape[0], 1)  # a batch in which nothing counts has a loss of zero, not of nan
