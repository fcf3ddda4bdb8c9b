"""Plugins as fake installed distributions: good ones work, broken ones are set aside and named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leptonsdk.errors import LeptonDeprecationWarning, LeptonPendingDeprecationWarning, MissingPluginError
from leptonsdk.hooks import load_plugins, specs

GOOD = """
from leptonsdk import hookimpl
from leptonsdk.hooks import Capabilities, PluginConfig, PostTrainingCompressor
class Config(PluginConfig):
    amount: float = 0.5
class Good(PostTrainingCompressor[Config]):
    name = "{name}"
    config_class = Config
    capabilities = Capabilities()
    def compress(self, checkpoint, context):
        return checkpoint
@hookimpl
def lepton_compressors():
    return [Good]
"""

CASES = {
    "good": GOOD.format(name="shrink"),
    "missing_import": "import a_module_that_is_not_there",
    "exits": "raise SystemExit(3)",
    "raising": "from leptonsdk import hookimpl\n@hookimpl\ndef lepton_compressors():\n    raise RuntimeError('no GPU')",
    "not_iterable": "from leptonsdk import hookimpl\n@hookimpl\ndef lepton_compressors():\n    return 3",
    "wrong_type": "from leptonsdk import hookimpl\n@hookimpl\ndef lepton_compressors():\n    return [dict]",
    "unknown_hook": "from leptonsdk import hookimpl\n@hookimpl\ndef lepton_compresors():\n    return []",
    "newer": f"LEPTON_HOOK_API = 99\n{GOOD.format(name='future')}",
    "zz_conflict": GOOD.format(name="shrink"),
    "abstract": (
        "from leptonsdk import hookimpl\nfrom leptonsdk.hooks import *\n"
        "class A(PostTrainingCompressor):\n    name='a'\n    config_class=PluginConfig\n    capabilities=Capabilities()\n"
        "@hookimpl\ndef lepton_compressors():\n    return [A]"
    ),
}
REASONS = {
    "missing_import": "a_module_that_is_not_there",
    "exits": "SystemExit",
    "raising": "RuntimeError: no GPU",
    "not_iterable": "returned int",
    "wrong_type": "not a subclass of Compressor",
    "unknown_hook": "lepton_compresors",
    "newer": "hook API 99",
    "zz_conflict": "already provided by good",
    "abstract": "does not implement compress",
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one fake distribution per case, on the path of this process and of its children."""
    for name, source in CASES.items():
        module = f"fake_{name}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: leptonsdk-{name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[leptonsdk]\n{name} = {module}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_each_broken_plugin_is_set_aside_with_its_reason_and_the_rest_works(site: Path) -> None:
    plugins = load_plugins()
    records = {record.name: record for record in plugins.records}
    for name, reason in REASONS.items():
        assert records[name].status == "set aside", name
        assert reason in (records[name].reason or ""), name
        assert (records[name].distribution, records[name].version) == (f"leptonsdk-{name}", "1.2")
    assert records["good"].status == "active"
    assert records["good"].provides == {"compressor": ["shrink"]}
    assert plugins.get("compressor", "shrink").__module__ == "fake_good"
    assert plugins.get("compressor", "rtn").name == "rtn"


def test_nothing_of_a_plugin_that_was_set_aside_stays_registered(site: Path) -> None:
    plugins = load_plugins()
    registered = {module.__name__ for module in plugins.hooks.get_plugins()}
    assert {name for name in registered if name.startswith("fake_")} == {"fake_good"}
    assert "future" not in plugins.names("compressor")


def test_a_missing_name_tells_the_nearest_one_or_why_its_plugin_is_not_there(site: Path) -> None:
    plugins = load_plugins()
    with pytest.raises(MissingPluginError, match="Did you mean 'shrink'"):
        plugins.get("compressor", "shrnk")
    with pytest.raises(MissingPluginError, match="was set aside.*no GPU"):
        plugins.get("compressor", "raising")


def test_environment_and_option_restrict(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTONSDK_PLUGINS", "zz_conflict")
    plugins = load_plugins()
    assert plugins.get("compressor", "shrink").__module__ == "fake_zz_conflict"
    assert {r.name for r in plugins.records if r.status == "active"} == {"core", "zz_conflict"}
    monkeypatch.delenv("LEPTONSDK_PLUGINS")
    plugins = load_plugins(without=["good"])
    assert plugins.get("compressor", "shrink").__module__ == "fake_zz_conflict"
    with pytest.raises(MissingPluginError, match="no plugin named goood.*Did you mean 'good'"):
        load_plugins(without=["goood"])


def test_the_command_lists_both_and_obeys(site: Path) -> None:
    def lepton(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "leptonsdk.cli", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=120
        )

    listed = lepton("plugins", "list")
    assert listed.returncode == 0, listed.stderr
    for name, reason in REASONS.items():
        assert name in listed.stdout
        assert reason in listed.stdout
    records = {r["name"]: r for r in json.loads(lepton("plugins", "list", "--json").stdout)}
    assert records["newer"]["status"] == "set aside"
    assert records["good"]["provides"] == {"compressor": ["shrink"]}
    limited = json.loads(lepton("plugins", "list", "--json", LEPTONSDK_PLUGINS="good").stdout)
    assert {r["name"] for r in limited if r["status"] == "active"} == {"core", "good"}
    without = json.loads(lepton("--no-plugin", "good", "plugins", "list", "--json").stdout)
    assert {r["name"]: r["status"] for r in without}["good"] == "disabled"


def test_a_plugin_of_an_older_hook_api_works_and_warns_until_it_is_dropped(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "fake_good.py").write_text(f"LEPTON_HOOK_API = 1\n{GOOD.format(name='shrink')}")
    sys.modules.pop("fake_good", None)
    monkeypatch.setenv("LEPTONSDK_PLUGINS", "good")
    monkeypatch.setattr(specs, "HOOK_API", 2)
    with pytest.warns(LeptonPendingDeprecationWarning, match="good .*was written for hook API 1, this leptonsdk has 2"):
        plugins = load_plugins()
    assert plugins.get("compressor", "shrink")
    monkeypatch.setattr(specs, "DEPRECATED_HOOK_API", 1)
    with pytest.warns(LeptonDeprecationWarning, match="the next major version drops 1: update the plugin"):
        plugins = load_plugins()
    (record,) = [record for record in plugins.records if record.name == "good"]
    assert (record.status, "next major version" in (record.reason or "")) == ("active", True)
    monkeypatch.setattr(specs, "OLDEST_HOOK_API", 2)
    (record,) = [record for record in load_plugins().records if record.name == "good"]
    assert record.status == "set aside"
    assert "update the plugin" in (record.reason or "")
