"""The reference evaluator's operations against MIL's own NumPy inference, and against torch where MIL has none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from leptonsdk_coreml.runner_fallback import by_mil
from leptonsdk_coreml.runner_operations import OPERATIONS

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
Y = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
IDS = np.array([[1, 2, 0], [2, 0, 1]], dtype=np.int32)
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {"x": X}) for name in ("abs", "ceil", "cos", "erf", "exp", "exp2", "floor", "relu", "sigmoid", "sign", "sin", "tanh")),
    *((name, {"x": np.abs(X) + 0.1}) for name in ("sqrt", "square")),
    *((name, {"x": np.abs(X) + 0.1, "epsilon": np.float32(0.25)}) for name in ("log", "rsqrt", "inverse")),
    *((name, {"x": X, "y": np.abs(Y) + 0.5}) for name in ("add", "sub", "mul", "real_div", "floor_div", "mod", "maximum", "minimum")),
    *((name, {"x": X, "y": Y}) for name in ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")),
    *((name, {"x": X > 0, "y": Y > 0}) for name in ("logical_and", "logical_or", "logical_xor")),
    ("pow", {"x": np.abs(X), "y": np.float32(1.5)}),
    ("floor_div", {"x": np.array([-7, 7], np.int32), "y": np.array([2, -2], np.int32)}),
    ("logical_not", {"x": X > 0}),
    ("select", {"cond": X > 0, "a": X, "b": Y}),
    ("clip", {"x": X, "alpha": np.float32(-0.5), "beta": np.float32(0.5)}),
    *(("gelu", {"x": X, "mode": mode}) for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")),
    ("softmax", {"x": X, "axis": np.int32(1)}),
    ("leaky_relu", {"x": X, "alpha": np.float32(0.3)}),
    ("elu", {"x": X, "alpha": np.float32(0.7)}),
    ("softplus", {"x": X}),
    ("softsign", {"x": X}),
    ("relu6", {"x": 8 * X}),
    ("matmul", {"x": X, "y": Y, "transpose_y": True}),
    ("matmul", {"x": X, "y": Y, "transpose_x": True}),
    ("linear", {"x": X[0], "weight": Y[1], "bias": np.arange(3, dtype=np.float32)}),
    ("layer_norm", {"x": X, "axes": np.array([2], np.int32), "gamma": X[0, 0], "beta": Y[0, 0], "epsilon": np.float32(0.1)}),
    ("layer_norm", {"x": X, "axes": np.array([1], np.int32), "epsilon": np.float32(0.1)}),
    *((f"reduce_{kind}", {"x": X, "axes": np.array([0, 2], np.int32), "keep_dims": keep})
      for kind in ("sum", "max", "min", "prod", "l2_norm", "sum_square") for keep in (True, False)),
    ("reduce_argmax", {"x": X, "axis": np.int32(1), "keep_dims": True}),
    ("cumsum", {"x": IDS, "axis": np.int32(1)}),
    ("shape", {"x": X}),
    ("cast", {"x": X, "dtype": "int32"}),
    ("cast", {"x": X > 0, "dtype": "fp32"}),
    ("reshape", {"x": X, "shape": np.array([0, -1, 2], np.int32)}),
    ("transpose", {"x": X, "perm": np.array([2, 0, 1], np.int32)}),
    ("expand_dims", {"x": X, "axes": np.array([0, -1], np.int32)}),
    ("squeeze", {"x": X[:, :1], "axes": np.array([1], np.int32)}),
    ("concat", {"values": [X, Y], "axis": np.int32(-1)}),
    ("stack", {"values": [X, Y], "axis": np.int32(1)}),
    ("split", {"x": X, "split_sizes": np.array([1, 3], np.int32), "axis": np.int32(2)}),
    ("split", {"x": X, "num_splits": np.int32(2), "axis": np.int32(2)}),
    ("slice_by_index", {"x": X, "begin": np.array([0, 1, 0], np.int32), "end": np.array([1, 3, -1], np.int32),
                        "stride": np.array([1, 1, 2], np.int32), "squeeze_mask": [True, False, False]}),
    ("slice_by_index", {"x": X, "begin": np.array([0, 2, 3], np.int32), "end": np.array([2, 0, 0], np.int32),
                        "stride": np.array([1, -1, -1], np.int32), "end_mask": [True, False, True]}),
    ("slice_by_size", {"x": X, "begin": np.array([0, 1, 2], np.int32), "size": np.array([-1, 2, 1], np.int32)}),
    ("gather", {"x": X, "indices": np.array([2, 0], np.int32), "axis": np.int32(1)}),
    ("gather", {"x": X[0], "indices": IDS, "axis": np.int32(0)}),
    ("gather_along_axis", {"x": X[:, :, 0], "indices": IDS, "axis": np.int32(1)}),
    ("tile", {"x": X, "reps": np.array([1, 2, 1], np.int32)}),
    ("fill", {"shape": np.array([2, 3], np.int32), "value": np.float32(1.5)}),
    ("range_1d", {"end": np.int32(9), "start": np.int32(1), "step": np.int32(3)}),
    ("reverse", {"x": X, "axes": np.array([1], np.int32)}),
    ("band_part", {"x": X, "lower": np.int32(1), "upper": np.int32(0)}),
    ("argsort", {"x": X, "axis": np.int32(1), "ascending": True}),
    ("topk", {"x": X, "k": np.int32(2), "axis": np.int32(2)}),
    ("pad", {"x": X, "pad": np.array([0, 0, 1, 2], np.int32), "mode": "constant", "constant_val": np.float32(3)}),
    ("pad", {"x": X, "pad": np.array([1, 1, 1, 2], np.int32), "mode": "reflect"}),
    ("pad", {"x": X, "pad": np.array([0, 0, 1, 2], np.int32), "mode": "replicate"}),
]  # fmt: skip


def _ours(value: Any) -> Any:
    if isinstance(value, list):
        return [_ours(part) for part in value]
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else getattr(value, "item", lambda: value)()


def _results(found: Any) -> list[torch.Tensor]:
    return list(found) if isinstance(found, tuple) else [found]


@pytest.mark.parametrize(
    ("name", "arguments"), CASES, ids=[f"{number}-{name}" for number, (name, _) in enumerate(CASES)]
)
def test_operations_are_mils(name, arguments):
    mil = by_mil(SimpleNamespace(op_type=name, opset_version=ct.target.iOS18))
    expected = mil(**arguments)
    found = _results(OPERATIONS[name](**{key: _ours(value) for key, value in arguments.items()}))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-5, rtol=1e-5)
    kinds = [{"f": True}.get(theirs.numpy().dtype.kind, False) for theirs in expected]
    assert [ours.is_floating_point() for ours in found] == kinds


def test_one_hot_is_torchs():
    found = OPERATIONS["one_hot"](
        indices=torch.tensor([1, 2, 0]), one_hot_vector_size=4, axis=0, on_value=5, off_value=-1
    )
    expected = torch.nn.functional.one_hot(torch.tensor([1, 2, 0]), 4).T * 6 - 1
    assert found.tolist() == expected.tolist()


def test_sums_run_backwards_without_their_own_element():
    found = OPERATIONS["cumsum"](x=torch.tensor([[1.0, 2.0, 4.0]]), axis=1, exclusive=True, reverse=True)
    assert found.tolist() == [[6.0, 4.0, 0.0]]


class _Net(torch.nn.Module):
    """Operations for which MIL has no inference."""

    def __init__(self) -> None:
        super().__init__()
        self.same = torch.nn.Conv2d(3, 8, 3, padding="same", groups=1)
        self.strided = torch.nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=4, dilation=1)
        self.pool = torch.nn.MaxPool2d(2)
        self.average = torch.nn.AvgPool2d(2, padding=1, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.silu(self.strided(self.same(x)))
        y = self.average(torch.nn.functional.interpolate(self.pool(y), scale_factor=2.0, mode="nearest"))
        return y.mean(dim=(2, 3)) + torch.einsum("bchw,bcwk->bck", y, y)[:, :, :1].squeeze(-1)


def test_what_mil_does_not_infer_is_torchs(tmp_path):
    from leptonsdk_coreml.runner_reference import ReferenceProgram

    torch.manual_seed(0)
    net, x = _Net().eval(), torch.randn(2, 3, 16, 16)
    program = ct.convert(
        torch.jit.trace(net, x),
        inputs=[ct.TensorType(name="x", shape=x.shape)],
        outputs=[ct.TensorType(name="y")],
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    program.save(str(tmp_path / "net.mlpackage"))
    opened = ct.models.MLModel(str(tmp_path / "net.mlpackage"), skip_model_load=True)
    with torch.no_grad():
        torch.testing.assert_close(ReferenceProgram(opened)({"x": x})["y"], net(x), atol=1e-5, rtol=1e-5)
