"""Recordings with labels: wav files in a table or in folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

import leptonsdk as lepton
from leptonsdk.data import DataSpec
from leptonsdk.data.audio import open_audio_folder
from leptonsdk.data.loading import load_data
from leptonsdk.errors import DataError
from leptonsdk.evaluation.recordings import waveform
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.evaluation.tasks.classification import AudioClassification
from leptonsdk.hooks import EvaluationSettings, load_plugins

PLUGINS = load_plugins()
RATE = 8000
HERTZ = (200, 900, 2000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tones of each pitch, in a folder of its own each, and a table of them."""
    folder = tmp_path_factory.mktemp("tones")
    lines = ["file,label"]
    for label, hertz in enumerate(HERTZ):
        (folder / "wavs" / f"{label}").mkdir(parents=True)
        for number, length in enumerate((3000, 4000)):
            tone = np.sin(2 * np.pi * hertz * np.arange(length) / RATE)
            path = f"wavs/{label}/{number}.wav"
            wavfile.write(folder / path, RATE, (tone * 32767).astype("<i2"))
            lines.append(f"{path},{label}")
    (folder / "dev.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def hearer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    folder = tmp_path_factory.mktemp("hearer")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Wav2Vec2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            conv_dim=(16, 16), conv_kernel=(10, 8), conv_stride=(80, 4), num_feat_extract_layers=2,
            feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
            classifier_proj_size=16, num_labels=3, initializer_range=0.5,
        )  # fmt: skip
        Wav2Vec2ForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


def test_scores_equal_a_plain_loop_from_a_table_and_from_folders(hearer: Path, folder: Path) -> None:
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    model = lepton.load_model(hearer)
    assert model.task == "audio-classification"
    scores = lepton.evaluate(model, str(folder / "dev.csv"), batch_size=1)
    extractor, plain = (
        AutoFeatureExtractor.from_pretrained(hearer),
        AutoModelForAudioClassification.from_pretrained(hearer),
    )
    expected = []
    for path in sorted((folder / "wavs").rglob("*.wav")):
        inputs = extractor(waveform(str(path), 16000), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            expected.append(plain.eval()(**inputs).logits[0].log_softmax(-1))
    labels = [0, 0, 1, 1, 2, 2]
    assert scores.columns["prediction"].tolist() == [int(row.argmax()) for row in expected]
    losses = [-float(row[label]) for row, label in zip(expected, labels, strict=True)]
    np.testing.assert_allclose(scores.columns["log_loss"], losses, atol=1e-5)
    assert scores.columns["label"].tolist() == labels
    folders = lepton.evaluate(model, str(folder / "wavs"), batch_size=1)
    np.testing.assert_allclose(folders.columns["log_loss"], losses, atol=1e-5)
    padded = lepton.evaluate(model, str(folder / "dev.csv"), batch_size=6)  # its mask keeps padding out
    np.testing.assert_allclose(padded.columns["log_loss"], losses, atol=0.05)


def test_a_batch_for_training_and_errors(hearer: Path, folder: Path) -> None:
    subject = open_subject(lepton.load_model(hearer), PLUGINS)
    paths = [str(folder / f"wavs/{label}/0.wav") for label in range(3)]
    rows = {"audio": paths, "label": [0, 1, 2]}
    batch = AudioClassification().training_batch(subject.processor, rows, EvaluationSettings(options=subject.options))
    assert batch["labels"].tolist() == [0, 1, 2]
    assert batch["input_values"].shape == (3, 6000)
    assert torch.isfinite(subject.runner.model(**batch).loss)
    with pytest.raises(DataError, match="no feature extractor"):
        AudioClassification().encode(None, rows, EvaluationSettings())
    with pytest.raises(DataError, match="files are not there"):
        lepton.evaluate(hearer, [{"audio": "none.wav", "label": 0}])


def test_whispers_encoder_is_fed_as_it_is_trained(folder: Path) -> None:
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    inputs = AudioClassification().encode(extractor, {"audio": [str(folder / "wavs/0/0.wav")]}, EvaluationSettings())
    assert inputs["input_features"].shape == (1, 8, 100)
    with pytest.raises(DataError, match="a recording lasts 2.0 s, the model hears 1 s"):
        AudioClassification().encode(extractor, {"audio": [np.zeros(32000)]}, EvaluationSettings())


def test_a_folder_with_a_table_or_with_folders_of_labels(folder: Path, tmp_path: Path) -> None:
    files = load_data(DataSpec(path=str(folder / "wavs")), AudioClassification, PLUGINS)
    assert files.rows["label"][:] == [0, 0, 1, 1, 2, 2]
    assert files.rows.features["label"].names == ["0", "1", "2"]
    content = (folder / "wavs/1/0.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content)
    (tmp_path / "b.wav").write_bytes(content)
    with pytest.raises(DataError, match="it needs the columns {audio, label}; the data has audio"):
        load_data(DataSpec(path=str(tmp_path)), AudioClassification, PLUGINS)
    (tmp_path / "metadata.csv").write_text("file_name,label\nb.wav,2\na.wav,0\n")
    table = load_data(DataSpec(path=str(tmp_path)), AudioClassification, PLUGINS)
    assert table.rows["label"][:] == [2, 0]
    assert [Path(row["path"]).name for row in table.rows["audio"]] == ["b.wav", "a.wav"]
    for split in ("train", "test"):
        (tmp_path / "parts" / split / "x").mkdir(parents=True)
        (tmp_path / "parts" / split / "x" / f"{split}.wav").write_bytes(content)
    rows = open_audio_folder(tmp_path / "parts", "test")
    assert [Path(path).name for path in rows["audio"]] == ["test.wav"]
    for split, message in ((None, "several splits.*test, train"), ("dev", "no split 'dev'")):
        with pytest.raises(DataError, match=message):
            open_audio_folder(tmp_path / "parts", split)
    (tmp_path / "metadata.csv").write_text("name,label\nb.wav,2\n")
    with pytest.raises(DataError, match="no column 'file_name'"):
        load_data(DataSpec(path=str(tmp_path)), AudioClassification, PLUGINS)
