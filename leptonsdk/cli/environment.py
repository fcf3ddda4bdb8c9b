"""``lepton doctor``."""

from __future__ import annotations

import json

import typer

from leptonsdk.cli import common


def doctor(as_json: common.Json = False) -> None:
    """What is installed, what works here, and what to install."""
    from leptonsdk.doctor import diagnose

    findings = diagnose(common.plugins())
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
        return
    marks = {"ok": "ok     ", "missing": "missing", "broken": "BROKEN "}
    for finding in findings:
        typer.echo(f"{marks[finding['state']]} {finding['name']:<22} {finding['detail']}")
        if finding.get("advice"):
            typer.echo(f"        {finding['advice']}")
    if any(finding["state"] == "broken" for finding in findings):
        raise typer.Exit(4)
