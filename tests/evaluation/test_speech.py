"""Speech recognition: recordings in every form, counting, and tiny random Whisper and CTC models."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Audio, Dataset
from scipy.io import wavfile

import leptonsdk as lepton
from leptonsdk.data import DataSpec
from leptonsdk.data.loading import load_data, to_data
from leptonsdk.errors import DataError, EvaluationError
from leptonsdk.evaluation.recordings import waveform
from leptonsdk.evaluation.subjects import open_subject
from leptonsdk.evaluation.tasks.speech_recognition import SpeechRecognition, count_errors, normalizer_of, transcribe
from leptonsdk.hooks import EvaluationSettings, load_plugins

PLUGINS = load_plugins()
TASK = "automatic-speech-recognition"
TEXTS = ["one two", "three", "two two one"]
LENGTHS = [4000, 8000, 6000]  # samples at 8 kHz


def tone(length: int, rate: int = 8000, hertz: float = 440) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(length) / rate)


def wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    wavfile.write(buffer, rate, samples)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv whose paths start from its own folder."""
    folder = tmp_path_factory.mktemp("speech")
    (folder / "wavs").mkdir()
    lines = ["path,sentence"]
    for number, (text, length) in enumerate(zip(TEXTS, LENGTHS, strict=True)):
        wavfile.write(
            folder / f"wavs/{number}.wav", 8000, (tone(length, hertz=200 + 100 * number) * 32767).astype("<i2")
        )
        lines.append(f"wavs/{number}.wav,{text}")
    (folder / "dev.csv").write_text("\n".join(lines) + "\n")
    return folder / "dev.csv"


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    folder = tmp_path_factory.mktemp("whisper")
    from tokenizers.pre_tokenizers import ByteLevel

    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    vocabulary = {token: number for number, token in enumerate(sorted(ByteLevel.alphabet()) + special)}
    end, start, plain = (vocabulary[token] for token in special)
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], pad_token=special[0])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    extractor = WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in
             {"layers": 1, "attention_heads": 2, "ffn_dim": 32}.items()}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = WhisperConfig(
            vocab_size=len(vocabulary),
            num_mel_bins=8,
            d_model=16,
            max_source_positions=100,
            max_target_positions=40,
            decoder_start_token_id=start,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
            suppress_tokens=None,
            begin_suppress_tokens=None,
            **sizes,
        )
        model = WhisperForConditionalGeneration(config).eval()
        model.generation_config.no_timestamps_token_id = plain
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ctc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("ctc")
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(letters)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Wav2Vec2Config(
            vocab_size=len(letters),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=(16, 16),
            conv_kernel=(10, 8),
            conv_stride=(80, 4),
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            num_feat_extract_layers=2,
        )
        Wav2Vec2ForCTC(config).eval().save_pretrained(folder)
    return folder


def test_every_form_of_a_recording_gives_the_same_samples(tmp_path: Path) -> None:
    samples = tone(800)
    content = wav((samples * 32767).round().astype(np.int16))
    (tmp_path / "a.wav").write_bytes(content)
    expected = waveform({"array": samples, "sampling_rate": 8000}, 16000)
    assert expected.dtype == np.float32
    assert len(expected) == 1600
    inner = slice(200, -200)  # the ends differ: before and after a recording there is silence
    assert np.abs(expected - tone(1600, 16000))[inner].max() < 2e-3
    stereo = np.stack([samples * 1.5, samples * 0.5], axis=1).astype(np.float32)
    forms: list[Any] = [
        str(tmp_path / "a.wav"),
        {"path": str(tmp_path / "a.wav"), "bytes": None},
        {"path": "gone.wav", "bytes": content},
        {"bytes": wav((samples * 127 + 128).round().astype(np.uint8)), "path": None},
        {"bytes": wav((samples * (2**31 - 1)).astype(np.int32)), "path": None},
        {"bytes": wav(stereo), "path": None},
    ]
    for form in forms:
        assert np.allclose(waveform(form, 16000), expected, atol=0.02), form
    assert np.array_equal(waveform(samples.tolist(), 16000), samples.astype(np.float32))


def test_recordings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="x.flac: it is no wav file.*ffmpeg"):
        waveform({"path": "x.flac", "bytes": b"fLaC...."}, 16000)
    with pytest.raises(DataError, match="gone.wav: it cannot be read"):
        waveform(str(tmp_path / "gone.wav"), 16000)
    with pytest.raises(DataError, match="b.wav: it is no wav file that scipy reads"):
        waveform({"path": "b.wav", "bytes": b"RIFF" + struct.pack("<I", 40) + b"WAVEfmt "}, 16000)
    with pytest.raises(DataError, match="no samples"):
        waveform([], 16000)


def test_normalizers_and_counts() -> None:
    english = normalizer_of(SimpleNamespace(english_spelling_normalizer=None))
    assert {english(text).strip() for text in ("7", "Seven.", " seven")} == {"7"}
    assert normalizer_of(SimpleNamespace(english_spelling_normalizer={"colour": "color"}))("Colour") == "color"
    basic = normalizer_of(SimpleNamespace())
    assert basic("Seven.").strip() == basic(" seven").strip() == "seven"
    assert normalizer_of(SimpleNamespace(), "english")("seven") == "7"
    digits = normalizer_of(SimpleNamespace(), "digits")
    assert digits(" Six, six, 4.") == digits("6 6 four") == "6 6 4"
    with pytest.raises(EvaluationError, match="english, basic or digits"):
        normalizer_of(None, "french")
    references = ["the cat sat", "a b", "", "same here"]
    columns = count_errors(references, ["The cat sat on.", "b", "noise", "same here"], basic)
    assert columns["word_errors"].tolist() == [1, 1, 1, 0]
    assert columns["words"].tolist() == [3, 2, 0, 2]
    assert columns["character_errors"].tolist() == [3, 2, 5, 0]
    assert columns["characters"].tolist() == [11, 3, 0, 9]
    with pytest.raises(DataError, match="no reference has a word"):
        count_errors(["..."], ["x"], basic)


def test_jiwer_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(EvaluationError, match=r"pip install 'leptonsdk\[speech\]'"):
        count_errors(["a"], ["a"], str)


def test_paths_start_from_the_table_and_fingerprints_from_the_content(table: Path, tmp_path: Path) -> None:
    data = load_data(DataSpec(path=str(table)), SpeechRecognition, PLUGINS)
    assert data.rows["text"][:] == TEXTS
    assert len(waveform(data.rows[1]["audio"], 8000)) == LENGTHS[1]
    contents = [(table.parent / f"wavs/{number}.wav").read_bytes() for number in range(3)]
    rows = [{"audio": {"bytes": c, "path": None}, "text": t} for c, t in zip(contents, TEXTS, strict=True)]
    assert to_data(rows, SpeechRecognition, PLUGINS).ids == data.ids
    paths = [str(table.parent / f"wavs/{number}.wav") for number in range(3)]
    featured = Dataset.from_dict({"audio": paths, "text": TEXTS}).cast_column("audio", Audio(sampling_rate=16000))
    assert to_data(featured, SpeechRecognition, PLUGINS).ids == data.ids
    (tmp_path / "bad.tsv").write_text("path\tsentence\nnone.wav\ta\n")
    with pytest.raises(DataError, match="1 of 1 files are not there.*none.wav"):
        load_data(DataSpec(path=str(tmp_path / "bad.tsv")), SpeechRecognition, PLUGINS)


def test_whisper_is_scored_like_its_own_generate(whisper_folder: Path, table: Path) -> None:
    import jiwer
    from transformers import AutoProcessor, WhisperForConditionalGeneration

    model = lepton.load_model(whisper_folder)
    assert model.task == TASK
    scores = lepton.evaluate(model, str(table), batch_size=2)
    processor = AutoProcessor.from_pretrained(whisper_folder)
    plain = WhisperForConditionalGeneration.from_pretrained(whisper_folder).eval()
    heard = []
    for number in range(3):
        samples = waveform(str(table.parent / f"wavs/{number}.wav"), 16000)
        features = processor(samples, sampling_rate=16000, return_tensors="pt").input_features
        ids = plain.generate(features, max_new_tokens=20)  # half of its positions
        heard.append(processor.batch_decode(ids, skip_special_tokens=True)[0])
    normalizer = normalizer_of(processor.tokenizer)
    references, heard = ([normalizer(text).strip() for text in texts] for texts in (TEXTS, heard))
    assert scores.value("wer") == pytest.approx(jiwer.wer(references, heard))
    assert scores.value("cer") == pytest.approx(jiwer.cer(references, heard))


def test_whisper_encodes_what_its_decoder_reads(whisper_folder: Path, table: Path) -> None:
    subject = open_subject(lepton.load_model(whisper_folder), PLUGINS)
    rows = load_data(DataSpec(path=str(table)), SpeechRecognition, PLUGINS).rows[:]
    settings = EvaluationSettings(options=subject.options)
    inputs = SpeechRecognition().encode(subject.processor, rows, settings)
    tokenizer = subject.processor.tokenizer
    ids = inputs["decoder_input_ids"]
    assert inputs["input_features"].shape == (3, 8, 200)
    assert set(ids[:, 0].tolist()) == {subject.options["decoder_start_token_id"]}
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == TEXTS
    assert (ids[1] == tokenizer.pad_token_id).sum() == len(TEXTS[2]) - len(TEXTS[1])  # the end itself is never read
    assert subject.runner(**inputs).logits.shape[:2] == ids.shape
    without = SpeechRecognition().encode(subject.processor, {"audio": rows["audio"]}, settings)
    assert set(without) == {"input_features"}
    with pytest.raises(DataError, match="a recording lasts 3.0 s, the model hears 2 s"):
        SpeechRecognition().encode(subject.processor, {"audio": [tone(48000, 16000)]}, settings)


def test_a_runner_that_cannot_generate(whisper_folder: Path) -> None:
    subject = open_subject(lepton.load_model(whisper_folder), PLUGINS)
    settings = EvaluationSettings(options=subject.options)
    runner: Any = SimpleNamespace(runtime="other 1.0")
    with pytest.raises(EvaluationError, match="other 1.0 cannot generate"):
        transcribe(runner, subject.processor, [tone(800)], settings)
    with pytest.raises(DataError, match="no speech processor"):
        transcribe(subject.runner, None, [tone(800)], settings)


def test_ctc_transcripts_do_not_depend_on_the_batch(ctc_folder: Path, table: Path) -> None:
    model = lepton.load_model(ctc_folder)
    assert (model.task, type(model.model).__name__) == (TASK, "Wav2Vec2ForCTC")
    subject = open_subject(model, PLUGINS)
    settings = EvaluationSettings(options=subject.options)
    audio = load_data(DataSpec(path=str(table)), SpeechRecognition, PLUGINS).rows["audio"][:]
    single = [transcribe(subject.runner, subject.processor, [recording], settings)[0] for recording in audio]
    assert any(single)
    together = transcribe(subject.runner, subject.processor, audio, settings)
    assert together[1] == single[1]  # the longest: not padded
    for alone, padded in zip(single, together, strict=True):
        assert abs(len(alone) - len(padded)) <= 1  # a frame at the end may hang over
    inputs = SpeechRecognition().encode(subject.processor, {"audio": audio, "text": TEXTS}, settings)
    assert set(inputs) == {"input_values", "attention_mask"}
    assert np.isfinite(lepton.evaluate(model, str(table)).value("wer"))
    with pytest.raises(EvaluationError, match="Wav2Vec2ForCTC: it cannot generate"):
        subject.runner.generate(max_new_tokens=3)
