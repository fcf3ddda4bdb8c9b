"""``lepton doctor``: what is installed, what works here, what to install."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import urllib.request
from typing import Any

from leptonsdk.hooks import Plugins

_PREFIX = "leptonsdk-"
_GIB = 1024**3
_HUB_SECONDS = 3


def diagnose(plugins: Plugins) -> list[dict[str, Any]]:
    """Findings: name, state (``ok``, ``missing``, ``broken``), detail, advice."""
    findings = [_finding("python", "ok", sys.version.split()[0])]
    findings += _packages()
    findings += _plugins(plugins)
    findings.append(_machine())
    findings.append(_hub())
    return findings


def _finding(name: str, state: str, detail: str, advice: str | None = None) -> dict[str, Any]:
    return {"name": name, "state": state, "detail": detail, "advice": advice}


def _packages() -> list[dict[str, Any]]:
    """Every declared requirement of leptonsdk against what is installed."""
    from packaging.requirements import Requirement

    findings = []
    for line in importlib.metadata.requires("leptonsdk") or ():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(_finding(requirement.name, "broken", "not installed", f'pip install "{requirement}"'))
            continue
        fits = requirement.specifier.contains(re.sub(r"\+.*", "", version), prereleases=True)
        advice = None if fits else f'pip install "{requirement}"'
        findings.append(_finding(requirement.name, "ok" if fits else "broken", version, advice))
    return findings


def _plugins(plugins: Plugins) -> list[dict[str, Any]]:
    findings = []
    for record in plugins.records:
        if record.status == "disabled":
            continue
        active = record.status == "active"
        provides = "; ".join(f"{kind} {', '.join(names)}" for kind, names in record.provides.items())
        detail = f"{record.distribution} {record.version}: {provides if active else record.reason}"
        advice = None if active else f"pip install --upgrade {record.distribution}, or leave it out with --no-plugin"
        findings.append(_finding(f"plugin {record.name}", "ok" if active else "broken", detail, advice))
    findings += [_backend(name, cls) for name, cls in sorted(plugins.all("backend").items())]
    found = {record.distribution for record in plugins.records}
    for distribution in _first_party():
        if distribution not in found:
            name = distribution.removeprefix(_PREFIX)
            findings.append(_finding(f"plugin {name}", "missing", distribution, f"pip install {distribution}"))
    return findings


def _first_party() -> list[str]:
    """The plugins that leptonsdk's extras name."""
    from packaging.requirements import Requirement

    names = {Requirement(line).name for line in importlib.metadata.requires("leptonsdk") or ()}
    return sorted(name for name in names if name.startswith(_PREFIX))


def _backend(name: str, cls: type[Any]) -> dict[str, Any]:
    """Whether a backend's runtime is there to be imported."""
    missing = [module for module in cls.runtime_modules if importlib.util.find_spec(module) is None]
    if missing:
        advice = f"pip install {' '.join(missing)}"
        return _finding(f"backend {name}", "broken", f"its runtime is missing: {', '.join(missing)}", advice)
    return _finding(f"backend {name}", "ok", f"precisions {', '.join(cls.precisions)}")


def _machine() -> dict[str, Any]:
    import psutil

    from leptonsdk.pipeline.fingerprints import available_threads

    memory = psutil.virtual_memory()
    free = shutil.disk_usage(".").free
    detail = (
        f"{available_threads()} cores, {memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB memory free, "
        f"{free / _GIB:.1f} GiB disk free"
    )
    return _finding("machine", "ok", detail)


def _hub() -> dict[str, Any]:
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
    if offline:
        return _finding(
            "hub", "ok", "offline (HF_HUB_OFFLINE): models and data come from folders, packages and the cache"
        )
    from huggingface_hub.constants import ENDPOINT

    try:
        with urllib.request.urlopen(ENDPOINT, timeout=_HUB_SECONDS):
            return _finding("hub", "ok", f"{ENDPOINT} answers")
    except OSError:
        advice = "folders, package:// models and provided datasets work without it"
        return _finding("hub", "missing", f"{ENDPOINT} does not answer", advice)
