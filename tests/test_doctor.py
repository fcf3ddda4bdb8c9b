"""What the doctor finds."""

from __future__ import annotations

import pytest

from leptonsdk.doctor import diagnose
from leptonsdk.hooks import PluginRecord, Plugins, load_plugins


def by_name(plugins: Plugins) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in diagnose(plugins)}


def test_a_sound_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = by_name(load_plugins())
    assert {name: f["state"] for name, f in found.items() if f["state"] != "ok"} == {}
    assert "rtn" in found["plugin core"]["detail"]
    assert "offline" in found["hub"]["detail"]


def test_what_is_missing_or_broken_comes_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plugins = load_plugins(without=["onnxruntime"])
    plugins.records.append(PluginRecord("bad", "leptonsdk-bad", "1.0", "set aside", "ImportError: no"))
    found = by_name(plugins)
    assert found["plugin bad"]["state"] == "broken"
    assert "ImportError: no" in found["plugin bad"]["detail"]
    whole = load_plugins()
    backend = whole.get("backend", "onnxruntime")
    monkeypatch.setattr(backend, "runtime_modules", ("no_such_runtime",))
    assert by_name(whole)["backend onnxruntime"]["advice"] == "pip install no_such_runtime"
    left = [record for record in whole.records if record.name not in ("onnxruntime", "movement_pruning")]
    monkeypatch.setattr(whole, "records", left)
    found = by_name(whole)
    for name in ("onnxruntime", "movement-pruning"):
        assert found[f"plugin {name}"]["advice"] == f"pip install leptonsdk-{name}"
