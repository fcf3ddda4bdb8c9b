"""Datasets from files, folders and providers: columns mapped to roles, rows fingerprinted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from leptonsdk.data import DataSpec, file_format
from leptonsdk.data.docstrings import split_docstring
from leptonsdk.data.loading import load_data, to_data
from leptonsdk.errors import DataError
from leptonsdk.hooks import load_plugins

PLUGINS = load_plugins()
TEXT = PLUGINS.get("evaluator", "text-classification")
IMAGE = PLUGINS.get("evaluator", "image-classification")
EMBEDDING = PLUGINS.get("evaluator", "feature-extraction")
ROWS = [{"sentence": "null", "label": 1}, {"sentence": 'a "quoted" one', "label": 0}, {"sentence": "NA", "label": 1}]


def files(folder: Path) -> dict[str, Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = {kind: folder / f"data.{kind}" for kind in ("csv", "tsv", "json", "jsonl", "parquet")}
    paths["csv"].write_text('sentence,label\nnull,1\n"a ""quoted"" one",0\nNA,1\n')
    paths["tsv"].write_text('sentence\tlabel\nnull\t1\na "quoted" one\t0\nNA\t1\n')
    paths["json"].write_text(json.dumps(ROWS))
    paths["jsonl"].write_text("\n".join(json.dumps(row) for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), paths["parquet"])
    return paths


def test_the_same_rows_from_every_format_have_the_same_fingerprints(tmp_path: Path) -> None:
    loaded = {kind: load_data(DataSpec(path=str(path)), TEXT, PLUGINS) for kind, path in files(tmp_path).items()}
    for kind, data in loaded.items():
        assert data.rows["text"][:] == ["null", 'a "quoted" one', "NA"], kind
        assert data.rows["label"][:] == [1, 0, 1]
        assert data.ids == loaded["csv"].ids
    assert len(set(loaded["csv"].ids)) == 3
    assert len({data.fingerprint for data in loaded.values()}) == 1


def test_limit_draws_with_the_seed_and_keeps_the_order(tsv: Path) -> None:
    def ids(seed: int, **more: int) -> tuple[str, ...]:
        return load_data(DataSpec(path=str(tsv), **more), TEXT, PLUGINS, seed=seed).ids

    whole = ids(0)
    drawn = ids(1, limit=10)
    assert len(drawn) == 10
    assert drawn == ids(1, limit=10) != ids(2, limit=10)
    assert list(drawn) == [i for i in whole if i in set(drawn)]
    assert ids(0, first=5) == whole[:5]
    assert set(ids(0, first=5, limit=3)) <= set(whole[:5])


def test_columns_are_mapped_and_mistakes_named(tsv: Path) -> None:
    data = load_data(DataSpec(path=str(tsv), columns={"text": "sentence"}), TEXT, PLUGINS)
    assert sorted(data.rows.column_names) == ["label", "text"]
    for columns, message in (({"txt": "sentence"}, "no role 'txt'"), ({"text": "sentense"}, "no column 'sentense'")):
        with pytest.raises(DataError, match=message):
            load_data(DataSpec(path=str(tsv), columns=columns), TEXT, PLUGINS)
    with pytest.raises(DataError, match=r"needs the columns .*passage, query.*sentence"):
        load_data(DataSpec(path=str(tsv)), EMBEDDING, PLUGINS)


def test_image_folders(tmp_path: Path) -> None:
    from PIL import Image

    for label, colour in (("dark", 10), ("light", 240)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8), (colour, number, 0)).save(tmp_path / "images" / label / f"{number}.png")
    assert file_format(tmp_path / "images") == "imagefolder"
    data = load_data(DataSpec(path=str(tmp_path / "images")), IMAGE, PLUGINS)
    assert data.rows["label"][:] == [0, 0, 1, 1]
    assert len(set(data.ids)) == 4


def test_what_is_not_there_or_not_readable(tmp_path: Path) -> None:
    (tmp_path / "thing.bin").write_bytes(b"x")
    (tmp_path / "empty.csv").write_text("sentence,label\n")
    for path, message in (
        ("nowhere.csv", "no such file"),
        ("thing.bin", "kind is not known"),
        ("empty.csv", "no data"),
    ):
        with pytest.raises(DataError, match=message):
            load_data(DataSpec(path=str(tmp_path / path)), TEXT, PLUGINS)
    with pytest.raises(DataError, match="cannot be loaded from the Hub.*python-docstrings"):
        load_data(DataSpec(path="python-docstring"), EMBEDDING, PLUGINS)


def test_python_docstrings_is_a_retrieval_set_with_two_disjoint_splits() -> None:
    test = load_data(DataSpec(path="python-docstrings"), EMBEDDING, PLUGINS).rows
    calibration = load_data(DataSpec(path="python-docstrings", split="calibration"), EMBEDDING, PLUGINS).rows
    assert len(test) > 1500
    assert len(calibration) > 300
    assert len(set(test["query"])) == len(set(test["passage"])) == len(test)
    assert not set(test["query"]) & set(calibration["query"])
    with pytest.raises(DataError, match="splits: test, calibration"):
        load_data(DataSpec(path="python-docstrings", split="train"), EMBEDDING, PLUGINS)


def test_a_docstring_is_split_after_its_first_sentence() -> None:
    rest = "The rest is long enough to be a passage that can be found by a search."
    assert split_docstring(f"Return the first of them, e.g.\n  this one. {rest}") == (
        "Return the first of them, e.g.",
        f"this one. {rest}",
    )
    assert split_docstring(f"A title with no full stop\n\n{rest}") == ("A title with no full stop", rest)
    assert split_docstring("Too short. Really.") is None


def test_data_from_python_objects() -> None:
    rows = [{"sentence": "good", "label": 1}, {"sentence": "bad", "label": 0}]
    assert to_data(rows, TEXT, PLUGINS).ids == to_data(Dataset.from_list(rows), TEXT, PLUGINS).ids
    generation = PLUGINS.get("evaluator", "text-generation")
    assert to_data(["a text", "another"], generation, PLUGINS).rows["text"][:] == ["a text", "another"]
    with pytest.raises(DataError, match="no rows"):
        to_data([], TEXT, PLUGINS)


def test_digits_are_real_and_split() -> None:
    train, test = (load_data(DataSpec(path="digits", split=split), IMAGE, PLUGINS) for split in ("train", "test"))
    assert (len(train), len(test)) == (1198, 599)
    assert not set(train.ids) & set(test.ids)
    assert test.rows[0]["image"].size == (8, 8)
