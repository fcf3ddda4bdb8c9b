"""What every backend needs: sample inputs, the files beside a graph, the comparison with the source, generation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leptonsdk.lazy import names_on_demand

if TYPE_CHECKING:
    from leptonsdk.exporting.companions import GENERATIVE_TASKS, pad_token, write_companions
    from leptonsdk.exporting.generation import Generating, Step, generate, logits_processors, position_ids
    from leptonsdk.exporting.inputs import (
        Inputs,
        complete_inputs,
        model_inputs,
        sample_batches,
        synthetic_inputs,
        tracing_inputs,
    )
    from leptonsdk.exporting.outputs import Outputs
    from leptonsdk.exporting.parity import check_parity, measure_parity
    from leptonsdk.exporting.patterns import matches_any
    from leptonsdk.exporting.seq2seq import Seq2SeqSettings, generate_seq2seq, torch_step, with_decoder_inputs
    from leptonsdk.exporting.silence import quiet

__all__ = [
    "GENERATIVE_TASKS",
    "Generating",
    "Inputs",
    "Outputs",
    "Seq2SeqSettings",
    "Step",
    "check_parity",
    "complete_inputs",
    "generate",
    "generate_seq2seq",
    "logits_processors",
    "matches_any",
    "measure_parity",
    "model_inputs",
    "pad_token",
    "position_ids",
    "quiet",
    "sample_batches",
    "synthetic_inputs",
    "torch_step",
    "tracing_inputs",
    "with_decoder_inputs",
    "write_companions",
]

_PLACES = {
    **dict.fromkeys(("GENERATIVE_TASKS", "pad_token", "write_companions"), "companions"),
    **dict.fromkeys(("Generating", "Step", "generate", "logits_processors", "position_ids"), "generation"),
    **dict.fromkeys(
        ("Inputs", "complete_inputs", "model_inputs", "sample_batches", "synthetic_inputs", "tracing_inputs"), "inputs"
    ),
    "Outputs": "outputs",
    **dict.fromkeys(("check_parity", "measure_parity"), "parity"),
    "matches_any": "patterns",
    **dict.fromkeys(("Seq2SeqSettings", "generate_seq2seq", "torch_step", "with_decoder_inputs"), "seq2seq"),
    "quiet": "silence",
}

__getattr__ = names_on_demand(__name__, _PLACES)
