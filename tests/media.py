"""Pictures and sounds that can be learnt, and what makes them into tensors for the tiny backbones: made here."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image
from transformers import ViTImageProcessorPil, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

SIDE, RATE, SECONDS = 32, 16_000, 0.1
"""Pixels, samples a second and seconds that the tiny backbones take."""
_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_PICTURES = {**_ENCODER, "image_size": SIDE, "patch_size": 8, "mlp_ratio": 2}
_WAVES = {
    **_ENCODER,
    "conv_dim": (16, 16),
    "conv_stride": (10, 8),
    "conv_kernel": (20, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}
_SPECTRA = {
    **{f"{side}_{what}": n for side in ("encoder", "decoder")
       for what, n in (("layers", 2), ("ffn_dim", 64), ("attention_heads", 2))},
    "d_model": 32,
    "vocab_size": 210,
    "num_mel_bins": 8,
    "max_source_positions": 50,
    "max_target_positions": 64,
    "classifier_proj_size": 16,
    "pad_token_id": 200,
    "eos_token_id": 200,
    "bos_token_id": 200,
    "decoder_start_token_id": 201,
}  # fmt: skip
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTConfig", _PICTURES),
    "deit": ("DeiTConfig", _PICTURES),
    "dinov2": ("Dinov2Config", _PICTURES),
    "wav2vec2": ("Wav2Vec2Config", _WAVES),
    "whisper": ("WhisperConfig", _SPECTRA),
}
"""As `tests.tiny` has them of families that read texts."""
PITCHES = ("low", "high", "middle")
COLOURS = ("red", "green", "blue")


def image_processor(family: str = "vit") -> ViTImageProcessorPil:
    """Resizes to 32 by 32 pixels; one for all families."""
    return ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})


def pictures(n: int, classes: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """`n` rows of image and label: noise of several sizes, in which one colour is stronger."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    made = []
    for index in range(n):
        array = noise.integers(0, 100, (draw.randint(20, 40), draw.randint(20, 40), 3), dtype=np.uint8)
        array[..., index % classes] += 120
        made.append({"image": array, "label": COLOURS[index % classes]})
    return made


def feature_extractor(family: str = "wav2vec2") -> Wav2Vec2FeatureExtractor | WhisperFeatureExtractor:
    """Normalised waves; for Whisper 8 bins of a second's window, of which the tiny one has 100 frames."""
    if family == "whisper":
        return WhisperFeatureExtractor(feature_size=8, sampling_rate=RATE, hop_length=160, chunk_length=1, n_fft=400)
    return Wav2Vec2FeatureExtractor(return_attention_mask=False)


def sounds(n: int, classes: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """`n` rows of audio (a wave and its rate) and label: tones in noise, of several lengths; the pitch is the class."""
    draw, noise = random.Random(seed), np.random.default_rng(seed)
    made = []
    for index in range(n):
        time = np.arange(draw.randint(1000, 1600)) / RATE
        tone = np.sin(2 * np.pi * (500, 4000, 1500)[index % classes] * time + draw.random() * 6)
        wave = (0.5 * tone + 0.05 * noise.standard_normal(len(time))).astype(np.float32)
        made.append({"audio": (wave, RATE), "label": PITCHES[index % classes]})
    return made


def picture_files(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Pictures as files in class folders: folder/red/00.png."""
    for index, row in enumerate(rows):
        place = folder / row["label"] / f"{index:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row["image"]).save(place)
    return folder


def sound_files(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Sounds as files in class folders: folder/low/00.wav."""
    for index, row in enumerate(rows):
        place = folder / row["label"] / f"{index:02}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, *row["audio"])
    return folder
