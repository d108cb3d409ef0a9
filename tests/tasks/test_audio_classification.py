"""Sounds to labels: what a row may hold, what is converted and told, and what is refused with its row."""

from __future__ import annotations

import importlib.util
import io
from collections import Counter
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile

from petune import AdaptedModel, LoRA, TrainConfig, Tuner
from petune.errors import BackboneError, ConfigError, DataError
from petune.tasks._sounds import open_sound, seconds_of
from petune.tasks.audio_classification import AudioClassification
from petune.tasks.base import Table
from tests import tiny
from tests.media import RATE, SECONDS, feature_extractor, sound_files, sounds

QUIET = TrainConfig(epochs=2, progress="off", batch_size=8, learning_rate=1e-2)


def tuner(family: str, model: Any = None, **knobs: Any) -> Tuner:
    """A tuner for sounds."""
    made = model if model is not None else tiny.backbone(family)
    return Tuner(made, **{"task": "audio-classification", "tokenizer": feature_extractor(family), **knobs})


def heard(value: Any, told: Counter[str] | None = None, known: int | None = None) -> np.ndarray:
    """One value as a wave at the backbone's rate."""
    return open_sound(value, "row 1", "audio", RATE, known, told if told is not None else Counter())


def wav(numbers: np.ndarray, rate: int = RATE, kind: str = "WAV", **how: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, numbers, rate, format=kind, **how)
    return buffer.getvalue()


def encoded(rows: list[Any], seconds: float = SECONDS, family: str = "wav2vec2") -> Any:
    """Rows as examples, unlabelled."""
    task = AudioClassification(audio="audio", label="label", labels=("a", "b"), seconds=seconds)
    table = Table([{"audio": row} for row in rows], ("audio",))
    return task.encode(table, feature_extractor(family), longest=512, labelled=False)


# ------------------------------------------------------------------ what a row may hold


def test_every_form_of_a_sound_has_the_same_numbers(tmp_path):
    """A path, bytes, arrays with their rate in every form, whole numbers, and what `datasets` keeps."""
    whole = (np.sin(np.arange(800) / 9) * 20_000).astype(np.int16)
    wave = (whole / 32768).astype(np.float32)
    (tmp_path / "a.wav").write_bytes(wav(whole))
    forms = [
        (wave, RATE),
        [wave.tolist(), RATE],
        (whole, RATE),
        {"array": wave, "sampling_rate": RATE},
        {"bytes": wav(whole), "path": None},
        {"bytes": None, "path": str(tmp_path / "a.wav")},
        wav(whole),
        wav(whole, kind="FLAC"),
        tmp_path / "a.wav",
        str(tmp_path / "a.wav"),
    ]
    for form in forms:
        assert np.array_equal(heard(form), wave), type(form)
        assert seconds_of(form, "row 1", "audio", None) == 0.05
    assert np.array_equal(heard(wave, known=RATE), wave)


def test_another_rate_is_resampled_and_channels_are_averaged():
    """Both are told; a tone stays the tone that it was."""
    time = np.arange(4000) / 8000
    both = np.stack([np.sin(2 * np.pi * 440 * time), np.zeros(4000)], 1).astype(np.float32)
    told: Counter[str] = Counter()
    found = heard((both, 8000), told)
    want = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / RATE)
    assert np.abs(found - want)[200:-200].max() < 1e-2
    said = ["of 2 channels were averaged into one", "were resampled from 8,000 to 16,000 samples a second"]
    assert sorted(told) == said
    assert np.array_equal(found, heard((both.T, 8000)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "is missing"),
        ("nowhere.wav", "no file 'nowhere.wav'"),
        (b"RIFF", "cannot be decoded"),
        (wav(np.zeros(800))[:-100], "ends after .* bytes"),
        (3.5, "holds a float"),
        ((np.zeros(800), -16_000), "sampling rate of the sound is -16000.*from 1,000 to 1,000,000"),
        ((np.zeros(800), 0), "sampling rate of the sound is 0"),
        ([[0.5] * 800, 16_000.5], "sampling rate of the sound is 16000.5"),
        ({"array": [0.5] * 800, "sampling_rate": 1}, "sampling rate of the sound is 1"),
        ({"array": [0.5] * 800, "sampling_rate": "fast"}, "sampling rate of the sound is 'fast'"),
        ({"array": [0.5] * 800, "sampling_rate": float("inf")}, "sampling rate of the sound is inf"),
        ({"array": [0.5] * 800, "sampling_rate": float("nan")}, "does not tell its sampling rate"),
        ([0.5, 0.25], "does not tell its sampling rate"),
        (np.zeros(800), "does not tell its sampling rate"),
        ((np.zeros(0), RATE), "is empty"),
        ((np.zeros((20, 20)), RATE), "is no sound"),
        (([[1.0], [2.0, 3.0]], RATE), "is no sound"),
        ((np.array([0.0, np.nan]), RATE), "not finite"),
        ((np.full(800, 12_000.0), RATE), "up to 12000"),
    ],
)
def test_what_is_no_sound_is_refused_with_its_row(value, said):
    """The bad row is named, with what it holds and what was expected."""
    with pytest.raises(DataError, match=f"row 1.*{said}"):
        heard(value)


def test_a_rate_may_be_a_whole_float():
    """As tables have it that hold rates and gaps; a single row or a pair of it is heard alike."""
    wave = sounds(1)[0]["audio"][0]
    want = heard((wave, RATE))
    assert np.array_equal(heard({"array": wave.tolist(), "sampling_rate": float(RATE)}), want)
    assert np.array_equal(heard((wave, np.float64(RATE))), want)


def test_without_soundfile_files_are_refused_with_the_extra(monkeypatch):
    """The message names the extra; arrays are read all the same."""
    found = importlib.util.find_spec
    gone = lambda name, *rest: None if name == "soundfile" else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", gone)
    with pytest.raises(BackboneError, match=r"petune\[audio\]"):
        heard(b"RIFF")
    assert len(heard((np.zeros(800), RATE))) == 800


# ------------------------------------------------------------------ what a backbone hears


def test_sounds_are_of_one_length_whatever_is_in_their_batch():
    """Longer ones are cut and told, shorter ones end in silence; each is normalised by itself."""
    noise = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    made = encoded([(noise[:400], RATE), (noise, RATE)])
    first, second = (example["input_values"] for example in made.examples)
    assert first.shape == second.shape == (1600,)
    assert not first[400:].any()
    assert abs(float(first[:400].std()) - 1) < 1e-2
    assert made.notices == ["the data: 1 of 2 sounds were longer than 0.1 seconds and were cut."]


def test_a_misspelt_column_is_asked_about():
    """Columns are found by their names, or by what is almost one."""
    with pytest.raises(DataError, match=r"Did you mean 'audo'\? Pass audio="):
        AudioClassification().learn(Table([{"audo": "a.wav", "lable": "a"}], ("audo", "lable")))


def test_a_mask_is_given_where_the_extractor_gives_one():
    """What is silence is masked for backbones that were trained so, as whole numbers."""
    extractor = feature_extractor()
    extractor.return_attention_mask = True
    task = AudioClassification(audio="audio", label="label", labels=("a", "b"), seconds=SECONDS)
    table = Table([{"audio": (np.ones(400, np.float32), RATE)}], ("audio",))
    examples = task.encode(table, extractor, longest=512, labelled=False).examples
    mask = task.collate(examples, extractor).inputs["attention_mask"]
    assert mask.dtype.is_signed
    assert not mask.dtype.is_floating_point
    assert mask.sum() == 400


def test_a_spectrum_is_the_extractors_own():
    """What a batch is made of is, to the bit, what the extractor makes of the wave."""
    wave = sounds(1)[0]["audio"][0]
    example = encoded([(wave, RATE)], family="whisper").examples[0]
    want = feature_extractor("whisper")(wave, sampling_rate=RATE, return_tensors="np")["input_features"][0]
    assert example["input_features"].shape == want.shape
    assert np.array_equal(np.asarray(example["input_features"]), want)


def test_the_length_is_learnt_from_the_training_rows():
    """The longest sound, upwards to a hundredth of a second; a knob says otherwise; both are kept."""
    table = Table(sounds(8), ("audio", "label"))
    longest = max(len(row["audio"][0]) for row in table.rows) / RATE
    learnt = AudioClassification().learn(table)
    assert longest <= learnt.seconds < longest + 0.01 + 1e-9 or learnt.seconds == 0.1
    assert "seconds of each sound are heard" in learnt.chosen(AudioClassification())[-1]
    assert AudioClassification(seconds=2.0).learn(table).seconds == 2.0
    for knob in ({"seconds": 0.01}, {"sampling_rate": 8}, {"max_length": 9}):
        with pytest.raises(ConfigError, match=next(iter(knob))):
            AudioClassification(**knob)


# ------------------------------------------------------------------ whole ways


@pytest.mark.parametrize("family", ["wav2vec2", "whisper"])
def test_a_folder_of_classes_is_trained_saved_and_loaded_without_arguments(family, tmp_path):
    """From class folders to an adapter that knows its backbone, its extractor, labels and length."""
    backbone = tmp_path / family
    tiny.backbone(family).save_pretrained(backbone)
    feature_extractor(family).save_pretrained(backbone)
    clips = sound_files(tmp_path / "clips", sounds(16))
    config = TrainConfig(epochs=6, progress="off", batch_size=8, learning_rate=1e-2)
    made = Tuner(backbone, task="audio-classification").fit(clips, config=config)
    assert made.evaluate(clips)["accuracy"] > 0.9
    paths = [str(path) for path in sorted(clips.rglob("*.wav"))]
    made.save(tmp_path / "adapter")
    loaded = Tuner.load(tmp_path / "adapter", check=True)
    assert loaded.predict(paths) == made.predict(paths)
    assert loaded.task.seconds == made.adapter.task.seconds


def test_a_dataset_with_an_audio_column_is_read():
    """`datasets` with Audio features give their files' bytes."""
    rows = [{"audio": {"bytes": wav(row["audio"][0]), "path": None}, "label": row["label"]} for row in sounds(8)]
    data = datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio())
    assert tuner("wav2vec2").fit(data, config=QUIET).classes_ == ("high", "low")


@pytest.mark.parametrize("family", ["wav2vec2", "whisper"])
def test_two_adapters_share_a_batch(family, tmp_path):
    """Rows of two adapters with other methods and labels are answered in one call as by each alone."""
    backbone, task = tiny.backbone(family), AudioClassification(seconds=SECONDS)
    first = tuner(family, backbone, task=task, name="two").fit(sounds(16), config=QUIET)
    second = tuner(family, backbone, task=task, method="prefix", name="three").fit(sounds(18, classes=3), config=QUIET)
    model = AdaptedModel(tiny.backbone(family), tokenizer=feature_extractor(family))
    model.add("two", first.save(tmp_path / "two")).add("three", second.save(tmp_path / "three"))
    things, names = [row["audio"] for row in sounds(4, seed=5)], ["two", "three", "three", "two"]
    alone = {"two": first.predict_proba(things), "three": second.predict_proba(things)}
    mixed = model.predict_proba(things, adapters=names)
    assert all(np.abs(np.asarray(mixed[row]) - alone[name][row]).max() <= 1e-5 for row, name in enumerate(names))


def test_a_cached_trunk_changes_no_loss():
    """The states of sounds are kept between epochs, and the losses are the same."""
    losses = []
    for cached in (True, False):
        config = TrainConfig(epochs=3, cache_trunk=cached, progress="off", batch_size=8, learning_rate=1e-2)
        made = tuner("wav2vec2", method=LoRA(rank=4, top=1)).fit(sounds(12), config=config)
        losses.append([row["loss"] for row in made.report.history if "loss" in row])
        assert any("was computed once" in notice for notice in made.report.notices) == cached
    assert np.allclose(*losses, atol=1e-5)
