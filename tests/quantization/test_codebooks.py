"""Codebooks: never worse than equal steps, exact where it can be checked, zeros kept, NF4 as published."""

import itertools
import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leptonsdk.errors import UsageError
from leptonsdk.quantization import (
    CodebookScheme,
    CodebookTensor,
    Scheme,
    fit_codebook,
    resolve_scheme,
    round_to_nearest,
)
from leptonsdk.quantization.codebooks import NF4, kmeans

STRATEGIES = st.sampled_from([{"strategy": "tensor"}, {"strategy": "channel"}, {"strategy": "group", "group_size": 16}])


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(draw(st.integers(1, 6)), 16 * draw(st.integers(1, 6)), generator=generator)
    weight = weight ** draw(st.sampled_from([1, 3, 7])) * 10.0 ** draw(st.integers(-6, 3))  # the latter heavy-tailed
    if draw(st.booleans()):
        weight[torch.rand(weight.shape, generator=generator) < 0.6] = 0
    if draw(st.booleans()):
        weight += weight.abs().max()
    if draw(st.booleans()):
        weight[0] = 0
    return weight


def error(weight: Tensor, restored: Tensor, importance: Tensor | float = 1.0) -> float:
    return float(((restored.double() - weight.double()) ** 2 * importance).sum())


@settings(max_examples=80, deadline=None)
@given(weights(), st.integers(2, 8), STRATEGIES, st.booleans(), st.booleans())
def test_kmeans_is_never_worse_than_equal_steps(
    weight: Tensor, bits: int, pieces: dict, symmetric: bool, weighted: bool
) -> None:
    importance = torch.rand(weight.shape, generator=torch.Generator().manual_seed(bits)) ** 4 if weighted else None
    book = fit_codebook(
        weight, CodebookScheme(num_bits=bits, codebook="kmeans", **pieces), weight_importance=importance
    )
    plain = round_to_nearest(weight, Scheme(num_bits=bits, symmetric=symmetric, **pieces), weight_importance=importance)
    factor = 1.0 if importance is None else importance
    bound = error(weight, plain.dequantize(), factor)
    # What rounding the values to float32 may add.
    slack = 1e-5 * bound + weight.numel() * (1e-7 * float(weight.abs().max())) ** 2
    assert error(weight, book.dequantize(), factor) <= bound + slack


@settings(max_examples=60, deadline=None)
@given(weights(), st.sampled_from(["kmeans", "nf4"]), STRATEGIES, st.sampled_from([torch.float32, torch.float16]))
def test_zeros_stay_indices_are_the_nearest_and_the_same_each_time(
    weight: Tensor, kind: str, pieces: dict, dtype: torch.dtype
) -> None:
    weight = weight.clamp(-6e4, 6e4).to(dtype)
    scheme = CodebookScheme(codebook=kind, **pieces)
    tensor, again = fit_codebook(weight, scheme), fit_codebook(weight, scheme)
    assert torch.equal(tensor.indices, again.indices)
    assert torch.equal(tensor.codebook, again.codebook)
    assert tensor.codebook.dtype == dtype
    restored = tensor.dequantize()
    assert bool((restored[weight == 0] == 0).all())
    count = math.prod(scheme.scale_shape(weight.shape))
    x = weight.double().reshape(count, -1, 1)
    values = tensor.codebook.double().expand(count, -1)
    if tensor.scale is not None:
        values = values * tensor.scale.double().reshape(-1, 1)
    least = (x - values[:, None]).abs().amin(2)
    distance = (x.squeeze(2) - values.gather(1, tensor.indices.reshape(count, -1).long())).abs()
    assert torch.allclose(distance, least, rtol=1e-9, atol=1e-12 * float(weight.abs().max()))


def naive_lloyd(row: list[float], importance: list[float], values: list[float], pin: bool) -> tuple[list[float], float]:
    """Lloyd's steps in Python's own floats, without sorting or running sums."""
    for _ in range(200):
        clusters: list[list[tuple[float, float]]] = [[] for _ in values]
        for x, w in zip(row, importance, strict=True):
            clusters[min(range(len(values)), key=lambda i: (abs(x - values[i]), i))].append((x, w))
        new = [
            v if not sum(w for _, w in c) or (pin and v == 0) else sum(x * w for x, w in c) / sum(w for _, w in c)
            for v, c in zip(values, clusters, strict=True)
        ]
        if new == values:
            break
        values = new
    return values, sum(w * min((x - v) ** 2 for v in values) for x, w in zip(row, importance, strict=True))


def best_split(row: list[float], importance: list[float], count: int) -> float:
    """The least error of any values, by trying every way to cut the sorted row."""
    pairs = sorted(zip(row, importance, strict=True))
    least = math.inf
    for cuts in itertools.combinations(range(1, len(pairs)), count - 1):
        total = 0.0
        for a, b in itertools.pairwise((0, *cuts, len(pairs))):
            mean = sum(x * w for x, w in pairs[a:b]) / sum(w for _, w in pairs[a:b])
            total += sum(w * (x - mean) ** 2 for x, w in pairs[a:b])
        least = min(least, total)
    return least


def test_a_naive_float64_lloyd_finds_no_more_from_where_it_ended_and_no_split_is_much_better() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 14, generator=generator, dtype=torch.float64) ** 3
    w = torch.rand(20, 14, generator=generator, dtype=torch.float64) + 0.1
    x[::3, 4] = 0
    values = kmeans(x, 2, w)
    ratios = []
    for row, importance, found in zip(x.tolist(), w.tolist(), values.tolist(), strict=True):
        again, own = naive_lloyd(row, importance, found, 0.0 in row)
        assert again == pytest.approx(found, rel=1e-9, abs=1e-12)
        if 0.0 in row:
            assert 0.0 in found
        else:
            ratios.append(own / best_split(row, importance, 4))
    assert min(ratios) >= 1 - 1e-9
    assert sorted(ratios)[len(ratios) // 2] < 1.05


def test_importance_moves_the_values_to_where_it_matters() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, importance = torch.randn(16, 64, generator=generator), torch.rand(64, generator=generator) ** 8
    scheme = resolve_scheme("KMEANS3")
    weighted = fit_codebook(weight, scheme, weight_importance=importance)
    assert error(weight, weighted.dequantize(), importance) < 0.5 * error(
        weight, fit_codebook(weight, scheme).dequantize(), importance
    )
    none = fit_codebook(weight, scheme, weight_importance=torch.zeros(64))
    assert torch.equal(none.codebook, fit_codebook(weight, scheme).codebook)


def test_few_different_weights_are_kept_exactly() -> None:
    weight = torch.tensor([[0.0, 1, 2, 3, 4, 5, 6, 7] * 8, [0.0, 0, 0, 0, 0, 0, 0, -3] * 8])
    assert torch.equal(fit_codebook(weight, resolve_scheme("KMEANS3")).dequantize(), weight)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, scheme = torch.randn(33, 64), CodebookScheme(codebook="kmeans", strategy="group", group_size=32)
    whole = fit_codebook(weight, scheme)
    monkeypatch.setattr("leptonsdk.quantization.codebooks._CHUNK", 100)
    parts = fit_codebook(weight, scheme)
    assert torch.equal(whole.indices, parts.indices)
    assert torch.equal(whole.codebook, parts.codebook)


def test_nf4_is_the_table_of_the_paper() -> None:
    """QLoRA, appendix E, as bitsandbytes computes it (`create_normal_map`): quantiles of a normal, with an exact 0."""
    offset = 0.9677083
    upper = scipy.stats.norm.ppf(torch.linspace(offset, 0.5, 9)[:-1].numpy())
    lower = -scipy.stats.norm.ppf(torch.linspace(offset, 0.5, 8)[:-1].numpy())
    values = torch.tensor(sorted([*upper, 0.0, *lower]))
    assert torch.allclose(torch.tensor(NF4).double(), values / values.max(), atol=1e-6)


def test_nf4_is_what_bitsandbytes_computes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    theirs = functional.dequantize_4bit(packed, state)
    assert torch.allclose(fit_codebook(weight, resolve_scheme("NF4")).dequantize(), theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "weight, arguments, message",
    [
        (torch.tensor([[float("nan")] * 64]), {}, "NaN or infinite"),
        (torch.ones(2, 64), {"weight_importance": torch.ones(64)}, "nf4 cannot follow an importance"),
        (torch.ones(2, 48), {}, "does not divide"),
    ],
)
def test_what_cannot_be_fitted_is_a_usage_error(weight: Tensor, arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit_codebook(weight, resolve_scheme("NF4"), **arguments)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"indices": torch.zeros(2, 4)}, "must be uint8"),
        ({"indices": torch.full((2, 4), 16, dtype=torch.uint8)}, "no 4-bit integers"),
        ({"codebook": torch.zeros(1, 16)}, "codebook must be float"),
        ({"scale": torch.ones(2, 1)}, "k-means has none"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(change: dict, message: str) -> None:
    parts = {"indices": torch.zeros(2, 4, dtype=torch.uint8), "codebook": torch.zeros(2, 16), "scale": None}
    with pytest.raises(UsageError, match=message):
        CodebookTensor(**{**parts, **change}, scheme=resolve_scheme("KMEANS4"))


def test_bits_per_weight_count_codebooks_and_scales() -> None:
    weight = torch.randn(8, 128).half()
    assert fit_codebook(weight, resolve_scheme("KMEANS4")).bits_per_weight == pytest.approx(4 + 16 * 16 / 128)
    assert fit_codebook(weight, resolve_scheme("NF4")).bits_per_weight == pytest.approx(4 + 16 / 64 + 16 * 16 / 1024)


@pytest.mark.parametrize("name", ["KMEANS4", "KMEANS3", "NF4"])
def test_a_preset_is_found_by_name_and_knows_it(name: str) -> None:
    assert resolve_scheme(name.lower()).name == name
    assert resolve_scheme("W4A16").name == "W4A16"


@pytest.mark.parametrize(
    "scheme, more, message",
    [
        ("KMEANS5", {}, "Did you mean 'KMEANS"),
        ("NF4", {"group_size": 32}, "group_size besides"),
        ({"codebook": "nf4", "num_bits": 3}, {}, "nf4 has 4 bits"),
        ({"codebook": "nf3"}, {}, "no such scheme"),
        (None, {}, "neither a scheme"),
    ],
)
def test_a_scheme_that_is_not_clear_is_a_usage_error(scheme: object, more: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_scheme(scheme, **more)
