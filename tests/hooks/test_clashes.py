"""Strangers' plugins in one environment: clashing names, a broken one, a good one. All that can work works, and the list explains the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = """
import torch
from leptonsdk import hookimpl
from leptonsdk.hooks import Capabilities, PluginConfig, PostTrainingCompressor
LEPTON_HOOK_API = 1
class Config(PluginConfig):
    factor: float = 0.5
class Scale(PostTrainingCompressor[Config]):
    name = "{compressor}"
    config_class = Config
    capabilities = Capabilities()
    def compress(self, checkpoint, context):
        import copy
        model = copy.deepcopy(checkpoint.model)
        with torch.no_grad():
            model.classifier.weight.mul_(self.config.factor)
        return checkpoint.replace(model=model)
@hookimpl
def lepton_compressors():
    return [Scale]
"""

# (distribution, plugin, module, what the module holds)
INSTALLED = [
    ("leptonsdk-alpha", "alpha", "alpha_plugin", PLUGIN.format(compressor="shrink")),
    ("leptonsdk-beta", "beta", "beta_plugin", PLUGIN.format(compressor="shrink")),  # the same compressor as alpha
    ("leptonsdk-fold", "fold", "fold_plugin", PLUGIN.format(compressor="fold")),
    ("fold-unlimited", "fold", "fold_unlimited", PLUGIN.format(compressor="fold_more")),  # the same plugin name as fold
    ("leptonsdk-copied", "copied", "alpha_plugin", None),  # its files are where alpha's are
    ("leptonsdk-broken", "broken", "broken_plugin", "import no_such_library"),
    ("leptonsdk-good", "good", "good_plugin", PLUGIN.format(compressor="good")),
]
ASIDE = {
    "leptonsdk-beta": "compressor 'shrink' is already provided by alpha (leptonsdk-alpha 1.0): leave that out (--no-plugin alpha)",
    "leptonsdk-fold": "another plugin has its name: fold (fold-unlimited 1.0); leave that out (--no-plugin fold-unlimited)",
    "leptonsdk-copied": "its module alpha_plugin is another plugin's already",
    "leptonsdk-broken": "cannot be imported: ModuleNotFoundError: No module named 'no_such_library'",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path of child processes in which all of them are installed."""
    folder = tmp_path_factory.mktemp("site")
    for distribution, name, module, source in INSTALLED:
        if source is not None:
            (folder / f"{module}.py").write_text(source)
        info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[leptonsdk]\n{name} = {module}\n")
    return folder


def lepton(site: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "leptonsdk.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
        env={**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", **environment},
    )


def records(site: Path, *arguments: str, **environment: str) -> dict[str, dict[str, object]]:
    listed = lepton(site, *arguments, "plugins", "list", "--json", **environment)
    assert listed.returncode == 0, listed.stderr
    return {record["distribution"]: record for record in json.loads(listed.stdout)}


def test_the_list_says_what_works_and_why_the_rest_does_not(site: Path) -> None:
    listed = lepton(site, "plugins", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    lines = listed.stdout.splitlines()
    found = records(site)
    for distribution, reason in ASIDE.items():
        place = next(number for number, line in enumerate(lines) if f"set aside  {distribution} 1.0" in line)
        assert reason in lines[place + 1]
        assert (found[distribution]["status"], found[distribution]["provides"]) == ("set aside", {})
    for distribution in ("leptonsdk-alpha", "fold-unlimited", "leptonsdk-good", "leptonsdk"):
        assert found[distribution]["status"] == "active"
    doctor = lepton(site, "doctor")
    assert all(f"BROKEN  plugin {name}" in doctor.stdout for name in ("beta", "fold", "copied", "broken"))


def test_the_other_one_of_two_can_be_chosen(site: Path) -> None:
    found = records(site, "--no-plugin", "alpha", "--no-plugin", "fold-unlimited")
    assert found["leptonsdk-beta"]["provides"] == {"compressor": ["shrink"]}
    assert found["leptonsdk-fold"]["provides"] == {"compressor": ["fold"]}
    only = records(site, LEPTONSDK_PLUGINS="Leptonsdk_Fold,good")
    assert {name for name, record in only.items() if record["status"] == "active"} == {
        "leptonsdk",
        "leptonsdk-fold",
        "leptonsdk-good",
    }


def test_a_run_goes_on_with_what_works(site: Path, bert_folder: Path, tsv: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"version: 1\nmodel: {{id: '{bert_folder}'}}\n"
        f"data: {{eval: {{path: '{tsv}', columns: {{text: sentence}}}}}}\n"
        "steps: [{good: {factor: 2.0}}, {rtn: {bit_width: 8}}]\n"
    )
    done = lepton(site, "run", str(recipe), "--out", str(tmp_path / "run"), "--json", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    steps = [step for step in json.loads(done.stdout)["steps"] if step["name"].startswith("0")]
    assert [step["name"] for step in steps] == ["01-good", "02-rtn"]
    recipe.write_text(recipe.read_text().replace("good:", "broken:"))
    refused = lepton(site, "plan", str(recipe))
    assert refused.returncode == 2
    assert "plugin broken (leptonsdk-broken 1.0) was set aside: cannot be imported" in refused.stderr
