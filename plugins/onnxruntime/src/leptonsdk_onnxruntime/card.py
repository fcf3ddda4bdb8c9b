"""How to load an artifact with ONNX Runtime alone, for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from leptonsdk.hooks import ModelCard

_RUN = """\
session = onnxruntime.InferenceSession(f"{{folder}}/{entry}")
names = {{value.name for value in session.get_inputs()}}
outputs = session.run(None, {{name: value for name, value in inputs.items() if name in names}})
print({{value.name: output.shape for value, output in zip(session.get_outputs(), outputs)}})"""

_GENERATE = """\
session = onnxruntime.InferenceSession(f"{{folder}}/{entry}")
ids, names = inputs["input_ids"], [value.name for value in session.get_outputs()]
cache = {{
    value.name: np.zeros([1, value.shape[1], 0, value.shape[3]], dtype=np.float32)
    for value in session.get_inputs()
    if value.name.startswith("past_key_values.")
}}
new = ids
for _ in range(20):  # greedy
    feed = {{
        "input_ids": new,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(ids.shape[1])[None, -new.shape[1] :],
    }}
    outputs = dict(zip(names, session.run(None, {{**feed, **cache}})))
    cache = {{name: outputs[name.replace("past_key_values", "present")] for name in cache}}
    new = outputs["logits"][:, -1:].argmax(-1)
    ids = np.concatenate([ids, new], axis=1)
print(processor.decode(ids[0]))"""

_ANSWER = """\
rules = json.loads(open(f"{{folder}}/generation_config.json").read())
encoder, decoder = (onnxruntime.InferenceSession(f"{{folder}}/{{name}}") for name in {files})


def call(session, feed):
    names = [value.name.replace("present", "past_key_values") for value in session.get_outputs()]
    return dict(zip(names, session.run(None, {{value.name: feed[value.name] for value in session.get_inputs()}})))


state = {{
    value.name: np.zeros([1, value.shape[1], 0, value.shape[3]], dtype=np.float32)
    for value in decoder.get_inputs()
    if ".decoder." in value.name
}}
state.update(call(encoder, inputs))  # once: its keys and values serve every token
state.update({{f"encoder_{{name}}": value for name, value in inputs.items()}})
ids = new = np.array([{start}])
never, first = rules.get("suppress_tokens") or [], rules.get("begin_suppress_tokens") or []
for _ in range(40):  # greedy
    state.update(call(decoder, {{**state, "input_ids": new}}))
    logits = state["logits"][:, -1:]
    logits[..., never + first] = -np.inf
    new, first = logits.argmax(-1), []
    ids = np.concatenate([ids, new], axis=1)
    if new.item() in {eos}:
        break
print(processor.decode(ids[0], skip_special_tokens=True))"""


def add_to_card(card: ModelCard, artifact: Mapping[str, Any]) -> None:
    """A section on one artifact."""
    title = f"With ONNX Runtime ({artifact['precision']})"
    entry = PurePosixPath(artifact["entry"])
    card.tags.append("onnxruntime")
    seq2seq = artifact["details"].get("seq2seq")
    if seq2seq:
        files = sorted(
            (name for name in artifact["files"] if name.endswith(".onnx")), key=lambda name: "decoder" in name
        )
        code = _ANSWER.format(files=files, start=_start(seq2seq), eos=seq2seq["eos"])
    else:
        decodes = any(value["name"].startswith("past_key_values.") for value in artifact["details"].get("inputs", ()))
        code = (_GENERATE if decodes else _RUN).format(entry=entry)
    program = card.program("onnxruntime", entry.parts[0], code, ["generation_config.json"] if seq2seq else ())
    if program is None or (seq2seq and None in seq2seq["start"]):  # which language is spoken must be found out first
        card.add_loading(title, f"`onnxruntime` opens `{entry}`; `leptonsdk-onnxruntime` runs it.")
        return
    card.add_loading(title, f"`pip install onnxruntime transformers`\n\n{program}")


def _start(settings: Mapping[str, Any]) -> list[int]:
    """The tokens that an answer starts with; Whisper's end with the one that asks for no timestamps."""
    last = settings.get("no_timestamps")
    return [*settings["start"], *([] if last is None else [last])]
