import subprocess
import sys

import pytest
from pydantic import ValidationError

from leptonsdk.errors import UsageError
from leptonsdk.quantization import PRESETS, Scheme, check_fits, fitting_group_sizes, matches


def test_the_package_imports_no_torch() -> None:
    code = "import sys, leptonsdk.quantization; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_found_by_name_and_knows_it(name: str) -> None:
    assert Scheme.preset(name.lower()).name == name


def test_an_unknown_preset_gets_the_nearest_word() -> None:
    with pytest.raises(UsageError, match="Did you mean 'W4A16'"):
        Scheme.preset("w4a61")


@pytest.mark.parametrize("bits, low, high", [(2, -2, 1), (4, -8, 7), (8, -128, 127)])
def test_integers_are_signed(bits: int, low: int, high: int) -> None:
    scheme = Scheme(num_bits=bits)
    assert (scheme.minimum, scheme.maximum) == (low, high)


@pytest.mark.parametrize(
    "fields",
    [{"num_bits": 1}, {"num_bits": 9}, {"num_bits": 4, "strategy": "group"}, {"num_bits": 4, "group_size": 32}],
)
def test_schemes_that_cannot_be_are_refused(fields: dict) -> None:
    with pytest.raises(ValidationError):
        Scheme(**fields)


def test_bit_width_alone_goes_by_channel_for_8_and_by_groups_for_fewer() -> None:
    assert Scheme.resolve(bit_width=8) == Scheme.preset("W8A16")
    assert Scheme.resolve(bit_width=4) == Scheme.preset("W4A16")
    assert Scheme.resolve(bit_width=4, symmetric=False) == Scheme.preset("W4A16_ASYM")
    assert Scheme.resolve(bit_width=4, group_size=64).group_size == 64
    assert Scheme.resolve(bit_width=4, group_size=-1).strategy == "channel"


def test_an_inline_scheme_is_taken_as_it_is() -> None:
    scheme = Scheme.resolve({"num_bits": 5, "strategy": "group", "group_size": 32})
    assert scheme.name == "W5A16 group 32"
    assert Scheme.resolve(scheme) is scheme


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"scheme": "W4A16", "bit_width": 4}, "bit_width besides"),
        ({}, "neither a scheme nor a bit_width"),
        ({"bit_width": 9}, "num_bits"),
        ({"bit_width": 4, "group_size": 0}, "group_size"),
        ({"scheme": {"bits": 4}}, "bits"),
    ],
)
def test_a_scheme_that_is_not_clear_is_a_usage_error(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Scheme.resolve(arguments.pop("scheme", None), **arguments)


@pytest.mark.parametrize("scheme", [*PRESETS.values(), Scheme(num_bits=6, strategy="tensor", symmetric=False)])
def test_a_scheme_survives_compressed_tensors_terms(scheme: Scheme) -> None:
    assert Scheme.from_weights(scheme.to_weights()) == scheme


def test_floats_in_disguise_are_refused() -> None:
    with pytest.raises(UsageError, match="not integers"):
        Scheme.from_weights({"num_bits": 8, "type": "float", "strategy": "channel"})


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("Linear", True),
        ("q_proj", True),
        ("self_attn.q_proj", True),
        ("model.layers.0.self_attn.q_proj", True),
        ("proj", False),
        ("attn.q_proj", False),
        (r"re:.*layers\.0\..*_proj$", True),
        (r"re:layers\.0", False),
        ("Embedding", False),
    ],
)
def test_patterns(pattern: str, expected: bool) -> None:
    name = "model.layers.0.self_attn.q_proj"
    assert matches(name, "Linear", [pattern]) is expected
    assert matches(name, {"Linear", "Module"}, ["Module"], [pattern]) is not expected


def test_group_sizes_that_fit() -> None:
    assert fitting_group_sizes(576) == (16, 32, 64)
    assert fitting_group_sizes([576, 1536]) == (16, 32, 64)
    assert fitting_group_sizes(10) == ()


def test_all_layers_that_do_not_fit_are_named_with_the_sizes_that_do() -> None:
    with pytest.raises(UsageError) as caught:
        check_fits(Scheme.preset("W4A16"), {"a.q": 576, "a.k": 576, "mlp.down": 96, "mlp.up": 256})
    text = str(caught.value)
    assert "576 inputs (fitting sizes: 16, 32, 64): a.q, a.k" in text
    assert "96 inputs (fitting sizes: 16, 32): mlp.down" in text
    assert "mlp.up" not in text
    assert "group_size 16 or 32 fits all layers" in text


def test_nothing_to_say_when_all_fit() -> None:
    check_fits(Scheme.preset("W4A16"), {"a": 256})
    check_fits(Scheme.preset("W8A16"), {"a": 7})
