"""``lepton plugins list`` and ``lepton doctor``."""

from __future__ import annotations

import json

import typer

from leptonsdk.cli import common


def plugins_list(as_json: common.Json = False) -> None:
    """What is installed: what works, what was set aside and why."""
    plugins = common.plugins()
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(record) for record in plugins.records], indent=2))
        return
    for record in plugins.records:
        typer.echo(f"{record.name:<20} {record.status:<10} {record.distribution} {record.version}")
        for kind, names in record.provides.items():
            typer.echo(f"{'':<20} {kind}: {', '.join(names)}")
        if record.reason:
            typer.echo(f"{'':<20} {record.reason}")


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
