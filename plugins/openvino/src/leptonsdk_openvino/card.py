"""How to load an artifact with OpenVINO alone, for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from leptonsdk.hooks import ModelCard

_RUN = """\
model = openvino.Core().compile_model(f"{{folder}}/{entry}", "CPU", {{"INFERENCE_PRECISION_HINT": "{hint}"}})
names = {{port.get_any_name() for port in model.inputs}}
outputs = model({{name: value for name, value in inputs.items() if name in names}})
print({{port.get_any_name(): outputs[port].shape for port in model.outputs}})"""

_GENERATE = """\
model = openvino.Core().compile_model(f"{{folder}}/{entry}", "CPU", {{"INFERENCE_PRECISION_HINT": "{hint}"}})
request = model.create_infer_request()  # keys and values are its state
ids = new = inputs["input_ids"]
for _ in range(20):  # greedy
    feed = {{
        "input_ids": new,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(ids.shape[1])[None, -new.shape[1] :],
        "beam_idx": np.zeros(1, dtype=np.int32),
    }}
    new = request.infer(feed)["logits"][:, -1:].argmax(-1)
    ids = np.concatenate([ids, new], axis=1)
print(processor.decode(ids[0]))"""

_ANSWER = """\
rules = json.loads(open(f"{{folder}}/generation_config.json").read())
encoder, decoder = (
    openvino.Core().compile_model(f"{{folder}}/{{name}}", "CPU", {{"INFERENCE_PRECISION_HINT": "{hint}"}})
    for name in {files}
)
inputs = {{port.get_any_name(): inputs[port.get_any_name()] for port in encoder.inputs}}
feed = {{"encoder_hidden_states": encoder(inputs)["last_hidden_state"], "beam_idx": np.zeros(1, dtype=np.int32)}}
if "attention_mask" in inputs:
    feed["encoder_attention_mask"] = inputs["attention_mask"]
request = decoder.create_infer_request()  # keys and values are its state
ids = new = np.array([{start}])
never, first = rules.get("suppress_tokens") or [], rules.get("begin_suppress_tokens") or []
for _ in range(40):  # greedy
    logits = request.infer({{**feed, "input_ids": new}})["logits"][:, -1:].copy()
    logits[..., never + first] = -np.inf
    new, first = logits.argmax(-1), []
    ids = np.concatenate([ids, new], axis=1)
    if new.item() in {eos}:
        break
print(processor.decode(ids[0], skip_special_tokens=True))"""


def add_to_card(card: ModelCard, artifact: Mapping[str, Any]) -> None:
    """A section on one artifact."""
    title = f"With OpenVINO ({artifact['precision']})"
    details, entry = artifact["details"], PurePosixPath(artifact["entry"])
    settings, hint = details.get("generation"), details.get("inference_precision", "f32")
    if settings:
        files = sorted(
            (name for name in artifact["files"] if name.endswith(".xml")), key=lambda name: "decoder" in name
        )
        code = _ANSWER.format(files=files, hint=hint, start=_start(settings), eos=settings["eos"])
    else:
        code = (_GENERATE if details.get("stateful") else _RUN).format(entry=entry, hint=hint)
    program = card.program("openvino", entry.parts[0], code, ["generation_config.json"] if settings else ())
    if program is None or (settings and None in settings["start"]):  # which language is spoken must be found out first
        card.add_loading(title, f"`openvino.Core().compile_model` opens `{entry}`; `leptonsdk-openvino` runs it.")
        return
    text = "\n\nOpenVINO computes in bfloat16 by itself where the processor has it; the numbers above were measured in "
    text += f"{hint}."
    if shapes := details.get("static_shapes"):
        sizes = ", ".join(" x ".join(map(str, next(iter(shape.values())))) for shape in shapes)
        text += (
            f" Inputs of {sizes} had a graph of their own: `openvino.Core().read_model`, then `reshape` before "
            "`compile_model`."
        )
    card.add_loading(title, f"`pip install openvino transformers`\n\n{program}{text}")


def _start(settings: Mapping[str, Any]) -> list[int]:
    """The tokens that an answer starts with; Whisper's end with the one that asks for no timestamps."""
    last = settings.get("no_timestamps")
    return [*settings["start"], *([] if last is None else [last])]
