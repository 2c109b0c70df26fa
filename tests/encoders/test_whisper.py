"""Whisper's front end and network against transformers', and what it makes of spoken words."""

import numpy as np
import pytest
import torch
from ctranslate2 import StorageView
from ctranslate2.models import Whisper as Model
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from feature_cache.datasets.base import Waveform
from feature_cache.datasets.pocket.speech_synthesis import speak
from feature_cache.encoders.pocket import whisper
from feature_cache.encoders.pocket.pocketbind import PocketBind
from feature_cache.encoders.pocket.whisper_log_mel import LONGEST, RATE, mel_weights, whisper_log_mel
from tests.encoders.ctranslate2_file import read_variables
from tests.encoders.media import sound

RATE_WPM = 160


@pytest.fixture(scope="module")
def network() -> whisper.Whisper:
    return whisper.Whisper()


def seconds_of_speech(seconds: float) -> Waveform:
    text = " ".join(["the quick brown fox jumps over the lazy dog"] * 15)
    return Waveform(speak(text).samples[: round(seconds * RATE)], RATE)


# --- the front end


@pytest.mark.parametrize("seconds", [0.01, 1.3, 7.00001, 29.0])
def test_the_spectrogram_is_what_transformers_computes(seconds: float) -> None:
    clip = seconds_of_speech(seconds)
    expected = WhisperFeatureExtractor()(clip.samples, sampling_rate=RATE, return_tensors="np").input_features[0]
    actual = whisper_log_mel(clip)
    assert actual.dtype == np.float32
    assert actual.shape == (80, 2 * int(np.ceil(clip.samples.size / 320)) + 100)
    np.testing.assert_allclose(actual, expected[:, : actual.shape[1]], atol=1e-4)


def test_music_at_another_rate_is_resampled_first() -> None:
    from scipy.signal import resample_poly

    flute = sound("flute")
    samples = resample_poly(flute.samples.astype(np.float64), 160, 441)
    expected = WhisperFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="np").input_features[0]
    actual = whisper_log_mel(flute)
    np.testing.assert_allclose(actual, expected[:, : actual.shape[1]], atol=1e-3)


def test_only_the_first_seconds_of_a_long_sound_are_heard() -> None:
    long = seconds_of_speech(LONGEST + 6)
    assert long.samples.size == (LONGEST + 6) * RATE
    np.testing.assert_array_equal(whisper_log_mel(long), whisper_log_mel(seconds_of_speech(LONGEST)))


def test_silence_is_the_lowest_power() -> None:
    np.testing.assert_allclose(whisper_log_mel(Waveform(np.zeros(100, np.float32), RATE)), (-10 + 4) / 4, rtol=1e-6)


def test_every_band_has_area_one() -> None:
    weights = mel_weights()
    assert weights.shape == (201, 80)
    fine = weights[:, 40:].sum(0) * 40  # bins are 40 Hz apart: exact where a band has many of them
    np.testing.assert_allclose(fine, 1, atol=0.15)


@pytest.mark.parametrize("samples, rate", [([], RATE), ([[0.0, 0.0]], RATE), ([0.0, np.nan], RATE), ([0.0], 0)])
def test_an_impossible_waveform_is_refused(samples: list[float], rate: int) -> None:
    with pytest.raises(ValueError, match="A waveform is a row of finite samples with a positive rate"):
        whisper_log_mel(Waveform(np.array(samples, np.float32), rate))


# --- the network


def test_the_network_is_the_encoder_that_transformers_builds_from_the_same_weights(network: whisper.Whisper) -> None:
    clip = whisper_log_mel(seconds_of_speech(LONGEST))
    assert clip.shape == (80, 3000)
    with torch.inference_mode():
        expected = reference_encoder()(torch.from_numpy(clip)[None]).last_hidden_state[0].numpy()
    np.testing.assert_allclose(network.outputs(clip), expected, atol=2e-3)


def reference_encoder() -> WhisperEncoder:
    variables = read_variables(whisper.FILES[0].locate())
    config = WhisperConfig(
        d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536, attn_implementation="eager"
    )
    encoder = WhisperEncoder(config).eval()
    state = {"embed_positions.weight": variables["encoder/position_encodings/encodings"]}
    for conv in ("conv1", "conv2"):
        state |= {f"{conv}.{part}": variables[f"encoder/{conv}/{part}"] for part in ("weight", "bias")}
    state |= layer_norm(variables, "encoder/layer_norm", "layer_norm")
    for number in range(4):
        ours, theirs = f"encoder/layer_{number}", f"layers.{number}"
        state |= layer_norm(variables, f"{ours}/self_attention/layer_norm", f"{theirs}.self_attn_layer_norm")
        state |= layer_norm(variables, f"{ours}/ffn/layer_norm", f"{theirs}.final_layer_norm")
        state |= linear(variables, f"{ours}/ffn/linear_0", f"{theirs}.fc1")
        state |= linear(variables, f"{ours}/ffn/linear_1", f"{theirs}.fc2")
        joint = linear(variables, f"{ours}/self_attention/linear_0", "joint")
        for at, name in enumerate("qkv"):
            state |= {
                f"{theirs}.self_attn.{name}_proj.{part}": joint[f"joint.{part}"][384 * at : 384 * (at + 1)]
                for part in ("weight", "bias")
                if (name, part) != ("k", "bias")
            }
        state |= linear(variables, f"{ours}/self_attention/linear_1", f"{theirs}.self_attn.out_proj")
    encoder.load_state_dict({name: torch.from_numpy(value.astype(np.float32)) for name, value in state.items()})
    return encoder


def layer_norm(variables: dict[str, np.ndarray], ours: str, theirs: str) -> dict[str, np.ndarray]:
    return {f"{theirs}.weight": variables[f"{ours}/gamma"], f"{theirs}.bias": variables[f"{ours}/beta"]}


def linear(variables: dict[str, np.ndarray], ours: str, theirs: str) -> dict[str, np.ndarray]:
    return {f"{theirs}.{part}": variables[f"{ours}/{part}"] for part in ("weight", "bias")}


def test_silence_after_a_sound_does_not_enter_its_embedding(network: whisper.Whisper) -> None:
    clip = speak("a parrot")
    heard = network.outputs(whisper_log_mel(clip))[: -(-clip.samples.size // 320)].astype(np.float64)
    expected = (np.sign(heard) * np.abs(heard) ** 0.5).mean(0)
    np.testing.assert_allclose(network.embed([whisper_log_mel(clip)])[0], expected, atol=1e-5)


@pytest.mark.parametrize("word", ["trumpet", "video camera", "telephone"])
def test_the_whole_model_writes_down_what_was_said(word: str) -> None:
    folder = whisper.FILES[0].locate().parent
    model = Model(str(folder), compute_type="float32", intra_threads=1)
    pieces = (folder / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    start = [pieces.index(token) for token in ("<|startoftranscript|>", "<|notimestamps|>")]
    clip = whisper_log_mel(speak(f"This is a {word}.", rate_wpm=RATE_WPM))
    padded = np.pad(clip, ((0, 0), (0, 3000 - clip.shape[1])), constant_values=clip.min())  # as the decoder wants it
    [result] = model.generate(StorageView.from_array(padded[None]), [start], beam_size=1, max_length=20)
    assert word in "".join(result.sequences[0]).replace("Ġ", " ").lower()


# --- what speech means to pocketbind


def test_a_word_is_nearer_to_itself_in_another_voice_than_to_other_words(pocketbind: PocketBind) -> None:
    words = ["cat", "trumpet", "telephone", "banana", "fire engine"]
    american, british, female = (
        pocketbind.embed("speech", [pocketbind.preprocess("speech", speak(word, voice, RATE_WPM)) for word in words])
        for voice in ("en-us", "en", "en-us+f3")
    )
    for others in (british, female):
        assert (american @ others.T).argmax(1).tolist() == [0, 1, 2, 3, 4]


def test_the_root_takes_most_of_what_all_speech_has_in_common(network: whisper.Whisper) -> None:
    texts = ["cat", "trumpet", "the stock market", "a slice of pizza", "woman detective", "blue book"]
    clips = [whisper_log_mel(speak(text)) for text in texts]
    plain = np.stack([network.outputs(clip)[: clip.shape[1] // 2 - 50].mean(0) for clip in clips])
    assert mean_cosine(plain) > 0.75
    assert mean_cosine(network.embed(clips)) < mean_cosine(plain) - 0.12


def mean_cosine(rows: np.ndarray) -> float:
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return float((units @ units.T)[np.triu_indices(len(rows), 1)].mean())
