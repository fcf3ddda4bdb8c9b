"""Weight-only quantization: the scheme vocabulary, tensors of integers, round-to-nearest, and the on-disk format.

The light names are here at once; those that need torch are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonsdk.lazy import names_on_demand
from leptonsdk.quantization.compressor import LayerQuantizer, QuantizerConfig, RoundToNearest, RoundToNearestConfig
from leptonsdk.quantization.layers import (
    LinearLayer,
    bias_of,
    choose_layers,
    class_names,
    layers_to_quantize,
    table_of,
    tied_layers,
    weight_of,
)
from leptonsdk.quantization.library_layers import refuse_library_layers
from leptonsdk.quantization.scheme import PRESETS, Scheme, check_fits, fitting_group_sizes, matches
from leptonsdk.quantization.scheme_codebooks import CODEBOOK_PRESETS, CodebookScheme, resolve_scheme

if TYPE_CHECKING:
    from leptonsdk.quantization.codebooks import fit_codebook
    from leptonsdk.quantization.formats import is_compressed, load_compressed, save_compressed
    from leptonsdk.quantization.formats_gptq import load_gptq, save_gptq
    from leptonsdk.quantization.formats_names import integers_by_module
    from leptonsdk.quantization.formats_sidecar import load_sidecar, save_sidecar
    from leptonsdk.quantization.rtn import quantize, round_to_nearest, search_scales, search_scales_by
    from leptonsdk.quantization.tensor import QuantizedTensor
    from leptonsdk.quantization.tensor_codebook import CodebookTensor

__all__ = [
    "CODEBOOK_PRESETS",
    "PRESETS",
    "CodebookScheme",
    "CodebookTensor",
    "LayerQuantizer",
    "LinearLayer",
    "QuantizedTensor",
    "QuantizerConfig",
    "RoundToNearest",
    "RoundToNearestConfig",
    "Scheme",
    "bias_of",
    "check_fits",
    "choose_layers",
    "class_names",
    "fit_codebook",
    "fitting_group_sizes",
    "integers_by_module",
    "is_compressed",
    "layers_to_quantize",
    "load_compressed",
    "load_gptq",
    "load_sidecar",
    "matches",
    "quantize",
    "refuse_library_layers",
    "resolve_scheme",
    "round_to_nearest",
    "save_compressed",
    "save_gptq",
    "save_sidecar",
    "search_scales",
    "search_scales_by",
    "table_of",
    "tied_layers",
    "weight_of",
]

_HEAVY = {
    "CodebookTensor": "tensor_codebook",
    "fit_codebook": "codebooks",
    "load_sidecar": "formats_sidecar",
    "save_sidecar": "formats_sidecar",
    "QuantizedTensor": "tensor",
    "integers_by_module": "formats_names",
    "is_compressed": "formats",
    "load_compressed": "formats",
    "load_gptq": "formats_gptq",
    "quantize": "rtn",
    "round_to_nearest": "rtn",
    "save_compressed": "formats",
    "save_gptq": "formats_gptq",
    "search_scales": "rtn",
    "search_scales_by": "rtn",
}

__getattr__ = names_on_demand(__name__, _HEAVY)
