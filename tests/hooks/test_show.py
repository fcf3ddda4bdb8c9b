"""`lepton plugins show`: what a recipe can say to a plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from leptonsdk.cli import main
from leptonsdk.cli.plugins import _type_name
from leptonsdk.hooks import load_plugins


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["lepton", "plugins", "show", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    told = capsys.readouterr()
    return int(left.value.code or 0), told.out, told.err


def test_every_option_is_told_with_default_and_meaning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = shown(capsys, monkeypatch, "rtn")
    assert code == 0
    fields = load_plugins().get("compressor", "rtn").config_class.model_fields
    rows = {cells[1].strip(): cells for line in out.splitlines() if len(cells := line.split("│")) > 4}
    assert set(fields) <= set(rows)
    assert rows["ignore"][3].strip().startswith("[")
    assert all(rows[name][4].split()[0] in str(fields[name].description) for name in fields)


def test_a_distribution_is_told_whole_and_as_json_by_schema(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = shown(capsys, monkeypatch, "leptonsdk", "--json")
    told = {one["name"]: one for one in json.loads(out)}
    assert code == 0
    assert "description" in told["rtn"]["config"]["properties"]["ignore"]
    assert told["text-classification"]["config"] is None
    assert "accuracy" in shown(capsys, monkeypatch, "text-classification")[1]


def test_an_unknown_name_gets_a_likely_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = shown(capsys, monkeypatch, "rtm")
    assert code
    assert "no plugin named 'rtm'" in err
    assert "rtn" in err


@pytest.mark.parametrize(
    ("annotation", "written"),
    [
        (float | None, "float | None"),
        (Literal["a", "b"], "a | b"),
        (tuple[str, ...], "tuple[str, ...]"),
        (Annotated[float, Field(ge=0)] | Mapping[str, Annotated[int, Field(gt=1)]], "float | Mapping[str, int]"),
        (Any, "Any"),
    ],
)
def test_types_are_written_as_one_would(annotation: Any, written: str) -> None:
    assert _type_name(annotation) == written
