"""Recordings: bands by hand, encoders of transformers, features computed once, the audible world, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rlhf_multimodal import audio_encoder
from rlhf_multimodal.audio_encoder import Sound, most_samples, resampled
from rlhf_multimodal.sounds import HERTZ, RATE, Sounds, waves
from scipy.io import wavfile
from transformers import (
    ASTFeatureExtractor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from rlhf_plugins import Base, Data, DataError, component


def tone(hertz: float, seconds: float = 0.5, rate: int = 8000, loud: float = 1.0) -> Sound:
    time = np.arange(round(seconds * rate)) / rate
    return Sound((loud * np.sin(2 * np.pi * hertz * time)).astype(np.float32), rate)


def test_the_power_of_a_tone_by_hand() -> None:
    """Two bands meet at mel 1073, 1114 Hz. A sine has power 1/4 in its bin of rfft / n: log10(1/4) / 6 = -0.1003."""
    found = component("audio_encoder", "bands", bands=2, parts=1).build()([tone(200.0), tone(3000.0), tone(0.0)])
    want = [[-0.10034, -1.0, 0.0], [-1.0, -0.10034, 0.0], [-1.0, -1.0, 0.0]]
    torch.testing.assert_close(found[:, 0], torch.tensor(want), atol=2e-3, rtol=0)


def test_parts_follow_in_time() -> None:
    """Silence, then a low tone."""
    sound = Sound(np.concatenate([np.zeros(400, np.float32), tone(200.0, 0.05).waves]), 8000)
    found = component("audio_encoder", "bands", bands=2, parts=2).build()([sound])[0]
    assert found[:, 0].tolist() == pytest.approx([-1.0, -0.1], abs=2e-2)
    assert found[:, 2].tolist() == [-1.0, 1.0]


def test_a_tone_stays_at_another_rate() -> None:
    again = resampled(tone(200.0, rate=8000), 16000)
    assert np.abs(again[2000:-2000] - tone(200.0, rate=16000).waves[2000:-2000]).max() < 0.01


SMALL = {"num_attention_heads": 2, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}


@pytest.fixture(scope="module")
def wav2vec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Wav2Vec2 in a folder."""
    folder = tmp_path_factory.mktemp("wav2vec")
    cut = {"conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 4), "num_feat_extract_layers": 2}
    places = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**SMALL, **cut, **places)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=16000).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Whisper in a folder, which hears one second."""
    folder = tmp_path_factory.mktemp("whisper")
    layers = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 16))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"d_model": 16, "num_mel_bins": 8, "max_source_positions": 50, "vocab_size": 20, "pad_token_id": 0}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    WhisperModel(WhisperConfig(**sizes, **layers, **heads, **ends)).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["wav2vec", "whisper"])
def test_an_audio_model_of_transformers_by_its_folder(name: str, request: pytest.FixtureRequest) -> None:
    encode = component("audio_encoder", "pretrained", model=request.getfixturevalue(name), vectors=3).build()
    one, other = encode([tone(200.0), tone(3000.0)])
    assert one.shape == (3, 16)
    assert (one - other).abs().max() > 1e-3
    torch.testing.assert_close(encode([tone(200.0)])[0], one)


def loaded(folder: Path, *names: str, **options: Any) -> Data:
    """Pairs about these files."""
    pairs = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b", "audio": name} for i, name in enumerate(names)]
    (file := folder / "rows.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    rows = {"format": "preference", "source": str(file)}
    found: Data = component("data_format", "with_audio", rows=rows, folder=str(folder), **options).load(
        Base("sandbox"), 0
    )
    return found


def test_features_are_computed_once(wav2vec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.wav", "copy.wav"):
        wavfile.write(tmp_path / name, 8000, tone(440.0).waves)
    words = {"encoder": {"use": "pretrained", "model": wav2vec, "vectors": 2}, "cache": str(tmp_path / "kept")}
    first = loaded(tmp_path, "a.wav", **words).train[0].columns["media_features"]
    monkeypatch.setattr(audio_encoder._Pretrained, "__call__", None)
    assert loaded(tmp_path, "copy.wav", **words).train[0].columns["media_features"] == first
    assert np.shape(first) == (2, 16)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
def test_the_depth_and_channels_of_a_file_do_not_matter(kind: Any, tmp_path: Path) -> None:
    wave = 0.5 * tone(500.0).waves
    scale, shift = {np.uint8: (127, 128), np.int16: (32767, 0), np.int32: (2**31 - 1, 0), np.float32: (1, 0)}[kind]
    stereo = np.stack([wave, wave], 1).astype(np.float64)
    wavfile.write(tmp_path / "a.wav", 8000, (stereo * scale + shift).astype(kind))
    wavfile.write(tmp_path / "b.wav", 8000, wave)
    a, b = (group.columns["media_features"] for group in loaded(tmp_path, "a.wav", "b.wav").groups)
    np.testing.assert_allclose(np.array(a)[:, 2], np.array(b)[:, 2], atol=0.01)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.wav", "with_audio: .*gone.wav: No such file"),
        ("rows.jsonl", "rows.jsonl: no WAV file that can be read"),
        ("torn.wav", "torn.wav: no WAV file that can be read"),
        ("nan.wav", "nan.wav: has a sample that is no number"),
        ("", "names no recording in the column 'audio'"),
        ("empty.wav", "empty.wav: has no sample"),
    ],
)
def test_a_recording_that_cannot_be_read_is_one_error(name: str, message: str, tmp_path: Path) -> None:
    wavfile.write(tmp_path / "empty.wav", 8000, np.zeros(0, np.int16))
    wavfile.write(tmp_path / "nan.wav", 8000, np.full(9, np.nan, np.float32))
    (tmp_path / "torn.wav").write_bytes((tmp_path / "nan.wav").read_bytes()[:30])
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, name)


def test_models_that_do_not_hear_are_one_error(wav2vec: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="audio_encoder pretrained: .* is no audio model that loads"):
        component("audio_encoder", "pretrained", model=str(tmp_path)).build()
    short = Sound(np.zeros(3, np.float32), 16000)
    with pytest.raises(DataError, match="audio_encoder pretrained: cannot read 0.000188 seconds"):
        component("audio_encoder", "pretrained", model=wav2vec).build()([short])


def test_a_recording_that_the_model_would_cut_is_refused_by_its_file(whisper: str, tmp_path: Path) -> None:
    for name, seconds in {"a.wav": 0.5, "b.wav": 1.5}.items():
        wavfile.write(tmp_path / name, 8000, np.zeros(round(8000 * seconds), np.int16))
    said = r"^with_audio: .*b\.wav: audio_encoder pretrained: a recording has 1.5 seconds, and the model takes 1: "
    with pytest.raises(DataError, match=said):
        loaded(tmp_path, "a.wav", "b.wav", encoder={"use": "pretrained", "model": whisper})


@pytest.mark.parametrize(
    ("extractor", "samples"),
    [
        (ASTFeatureExtractor(max_length=10, num_mel_bins=8), 400 + 9 * 160),
        (WhisperFeatureExtractor(feature_size=8, chunk_length=1), 16000),
        (Wav2Vec2FeatureExtractor(), None),
    ],
)
def test_what_an_extractor_takes_by_hand(extractor: Any, samples: int | None) -> None:
    """Sound after that is not heard, and before it is."""
    assert most_samples(extractor) == samples
    noise = np.random.default_rng(0).normal(size=(samples or 1000) + 320).astype(np.float32)
    read = [extractor(noise[:n], sampling_rate=16000)[extractor.model_input_names[0]][0] for n in (None, samples)]
    assert np.array_equal(*read)
    shorter = extractor(noise[: (samples or 1000) - 320], sampling_rate=16000)[extractor.model_input_names[0]][0]
    assert not np.array_equal(shorter, read[0])


def test_each_sound_is_what_it_is_called(tmp_path: Path) -> None:
    """The strongest frequency of the steady ones; no two recordings are alike."""
    world = Sounds(folder=str(tmp_path))
    every = {each: waves(each) for each in world.scenes()}
    assert len({found.tobytes() for found in every.values()}) == len(every) == 180
    for each, found in every.items():
        if each.sound in ("hum", "whistle"):
            strongest = np.abs(np.fft.rfft(found)).argmax() / 0.5
            assert strongest == pytest.approx(each.tuning * HERTZ[each.sound][0], abs=6)
    data = component(
        "data_format", "with_audio", rows={"format": "sounds", "folder": str(tmp_path), "prompts": 9, "test_prompts": 5}
    ).load(Base("sandbox"), 0)
    assert np.shape(data.test[0].columns["media_features"]) == (8, 13)
    assert data.train[0].columns["caption"].rstrip(".").split()[-1] in HERTZ
    assert wavfile.read(data.train[0].columns["audio"])[0] == RATE
