"""The card: from the manifest, valid, with what a person wrote kept; its snippets run without leptonsdk."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from server import Hub

from leptonsdk.artifact import sha256
from leptonsdk.errors import RunError, UsageError
from leptonsdk.hooks import ModelCard, PluginRecord, Plugins, hookimpl
from leptonsdk.hub.card import lay_in
from leptonsdk.hub.card_data import folder_of
from leptonsdk.hub.push import Pushed
from leptonsdk.pipeline.run import Run

Push = Callable[..., Pushed]
REPORT = """
first = outputs.logits.detach() if hasattr(outputs, "logits") else outputs[0]
print("outputs", [f"{x:.5f}" for x in np.asarray(first).ravel()])
"""


def card_of(hub: Hub) -> tuple[dict, str]:
    content = hub.repository("me/toy").files["README.md"].decode()
    _, metadata, text = content.split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_metadata_says_where_it_comes_from_and_what_it_reaches(hub: Hub, push: Push, run: Run) -> None:
    push(base_model="them/toy")
    metadata, _ = card_of(hub)
    assert metadata["base_model"] == "them/toy"
    assert metadata["base_model_relation"] == "quantized"
    assert metadata["license"] == "mit"
    assert metadata["language"] == "en"
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "text-classification"
    assert {"leptonsdk", "onnx", "onnxruntime", "compressed-tensors"} <= set(metadata["tags"])
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    judged = {c["subject"]: c for c in run.state["conditions"] if c["metric"] == "accuracy"}
    for metric in metrics:
        condition = judged[metric["args"]["model"]]
        assert metric["value"] == condition["candidate"]
        assert metric["args"]["drop_interval"] == condition["interval"]


def test_the_text_tells_what_was_done_and_what_it_costs(hub: Hub, push: Push, run: Run) -> None:
    push()
    _, text = card_of(hub)
    for title in ("What was done", "What it costs", "How to load", "How to check and reproduce it", "Limits"):
        assert f"## {title}\n" in text
    for condition in run.state["conditions"]:
        assert f"`{condition['subject']}`" in text
    assert run.state["hardware"]["processor"].split()[0] in text
    assert "bit_width: 8" in text
    assert "### With ONNX Runtime (int8-dynamic)" in text, "a plugin's section"
    assert "{{" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|"), "a table's row is one line"


def test_what_a_person_wrote_stays(hub: Hub, push: Push) -> None:
    push()
    repository = hub.repository("me/toy")
    content = repository.files["README.md"].decode()
    content = content.replace("license: mit", "license: apache-2.0\ndatasets: [mine/words]")
    content = content.replace("pipeline_tag: text-classification", "pipeline_tag: other")
    content = content.replace("tags:\n", "tags:\n- own\n")
    content = content.replace("<!-- leptonsdk: begin", "# My words first\n\n<!-- leptonsdk: begin", 1)
    content = content.replace("# toy\n", "# Scribbled over\n") + "\nAnd after.\n"
    repository.put("README.md", content.encode())
    push()
    metadata, text = card_of(hub)
    assert text.startswith("# My words first\n")
    assert text.endswith("And after.\n")
    assert "Scribbled" not in text, "our part is ours"
    assert metadata["license"] == "apache-2.0"
    assert metadata["datasets"] == ["mine/words"]
    assert "own" in metadata["tags"]
    assert metadata["pipeline_tag"] == "text-classification"
    assert len(metadata["model-index"][0]["results"][0]["metrics"]) == 2, "results are written anew, not added again"


def test_a_licence_said_for_a_push_is_the_cards(hub: Hub, push: Push) -> None:
    push()
    push(license="apache-2.0")
    assert card_of(hub)[0]["license"] == "apache-2.0"


def test_an_artifact_at_the_root_is_in_no_folder(hub: Hub, push: Push, run: Run) -> None:
    assert folder_of({"entry": "onnx/model.onnx"}) == "onnx"
    assert folder_of({"entry": "model.pte"}) == ""


def test_a_card_without_our_part_gets_it_at_its_end(hub: Hub, push: Push) -> None:
    hub.storage.create("me/toy", private=True).put("README.md", b"# All mine\n\nA story.\n")
    push()
    _, text = card_of(hub)
    assert text.startswith("# All mine\n\nA story.\n\n<!-- leptonsdk: begin")


def test_a_card_that_cannot_be_read_is_not_written_over(hub: Hub, push: Push) -> None:
    for content in (b"---\n[: {\n---\n", b"<!-- leptonsdk: begin -->\nhalf of it\n"):
        repository = hub.storage.create("me/toy", private=True)
        repository.put("README.md", content)
        with pytest.raises(UsageError, match=r"README\.md"):
            push()
        assert repository.files["README.md"] == content


TEXTS = st.text(st.characters(exclude_characters="<"), max_size=60)


@given(before=TEXTS, after=TEXTS, first=TEXTS, second=TEXTS, warn=st.booleans())
def test_laying_in_is_lasting_and_loses_nothing(before: str, after: str, first: str, second: str, warn: bool) -> None:
    card = lay_in(first, "> **Warning**" if warn else None, f"{before}\n")
    card = lay_in(second, None, f"{card}{after}")
    assert lay_in(second, None, card) == card
    assert before.strip() in card
    assert after.strip() in card
    assert "Warning" not in card
    assert card.count("<!-- leptonsdk: begin") == 1


def test_a_plugins_exception_stops_the_push(hub: Hub, push: Push) -> None:
    @hookimpl
    def lepton_model_card(card: ModelCard) -> None:
        raise RuntimeError(f"no section for {card.repo_id}")

    plugins, module = Plugins(), ModuleType("broken")
    module.lepton_model_card = lepton_model_card
    plugins.add(module, PluginRecord("broken", "leptonsdk-broken", "1"))
    with pytest.raises(RunError, match=r"lepton_model_card: RuntimeError: no section for me/toy"):
        push(plugins=plugins)
    assert not hub.storage.repositories


def test_the_snippets_run_without_leptonsdk_and_give_the_same(hub: Hub, push: Push, run: Run, tmp_path: Path) -> None:
    """The card's own code, in a process that cannot import leptonsdk, from an empty cache; against the run's own files."""
    push()
    _, text = card_of(hub)
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 3, "transformers, and two graphs"
    local = [snippets[0].replace('"me/toy"', f'"{run.folder}/steps/01-rtn"')]
    for name in ("onnxruntime-fp32", "onnxruntime-int8"):
        folder = run.folder / "artifacts" / name
        (snippet,) = [s for s in snippets if f'/{run.artifact(name).entry}"' in s]
        local.append(re.sub(r"snapshot_download\(.*\)", f'"{folder}"', snippet).replace('"me/toy"', f'"{folder}"'))
    given = outputs(snippets, hub.url, tmp_path / "home")
    assert sorted(given) == sorted(outputs(local, hub.url, tmp_path / "other"))
    assert len(given) == 3
    assert len(set(given)) >= 2, "int8 is not fp32"


POOLING = {"embedding_dimension": 16, "pooling_mode": "cls"}
MODULES = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling")]


def test_a_sentence_encoder_loads_with_its_own_library(
    hub: Hub, push: Push, run: Run, source: Path, tmp_path: Path
) -> None:
    encoder, folder = tmp_path / "encoder", tmp_path / "run"
    shutil.copytree(source, encoder)
    width = json.loads((encoder / "config.json").read_text())["hidden_size"]
    modules = [
        {"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for name, path, kind in MODULES
    ]
    (encoder / "modules.json").write_text(json.dumps(modules))
    (encoder / "1_Pooling").mkdir()
    (encoder / "1_Pooling" / "config.json").write_text(json.dumps({**POOLING, "embedding_dimension": width}))
    shutil.copytree(run.folder, folder)
    state = json.loads((folder / "run.json").read_text())
    added = {name: sha256(encoder / name) for name in ("modules.json", "1_Pooling/config.json")}
    state["model"]["files"] |= added
    state |= {"steps": [], "ledger": [row for row in state["ledger"] if row["kind"] != "compress"]}
    state["recipe"]["steps"] = []
    (folder / "run.json").write_text(json.dumps(state))
    push(run=folder, source=encoder)
    metadata, text = card_of(hub)
    assert metadata["library_name"] == "sentence-transformers"
    assert "The embedding of a text is the first token's of" in text
    snippet = next(s for s in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "SentenceTransformer" in s)
    local = snippet.replace('"me/toy"', f'"{encoder}"')
    (given,), (expected,) = (outputs([code], hub.url, tmp_path / "home") for code in (snippet, local))
    assert given == expected
    assert given.count(",") == width - 1


def outputs(snippets: list[str], endpoint: str, home: Path) -> list[str]:
    """What each one's first output holds, carried out in one process."""
    words = "film story plot good bad"
    code = "import sys; sys.modules['leptonsdk'] = None\nimport numpy as np\n"
    for snippet in snippets:
        snippet = snippet.replace("An example sentence.", words).replace("And another one.", "great awful")
        code += f"{snippet}\n{REPORT}\n"
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_owner",
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{code}\n{done.stderr[-3000:]}"
    return [line for line in done.stdout.splitlines() if line.startswith("outputs ")]
