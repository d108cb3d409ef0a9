"""What is said in a sound; the head is the backbone's, so there is none to train alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import WhisperProcessor, WhisperTokenizer

from petune.tasks.speech_to_text import SpeechToText
from tests import kinds, media, tiny

FAMILIES = ("whisper",)
METHODS = tuple(method for method in kinds.METHODS if method != "head")


def task() -> SpeechToText:
    """A task that writes little."""
    return SpeechToText(max_new_tokens=8)


def rows(n: int) -> list[dict[str, Any]]:
    """A tone, and one or two words for it."""
    said = {"low": "bad film", "high": "good"}
    return [{"audio": row["audio"], "text": said[row["label"]]} for row in media.sounds(n)]


def reads(family: str) -> WhisperProcessor:
    """The extractor of tiny spectra, and byte pairs with Whisper's marks behind them."""
    vocabulary, merges = tiny._trained_pairs(tuple(tiny.WORDS))
    marks = ["<|startoftranscript|>", "<|notimestamps|>"]
    words = WhisperTokenizer(vocab=vocabulary, merges=merges, additional_special_tokens=marks)
    return WhisperProcessor(media.feature_extractor("whisper"), words)


def real(logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """The logits at pieces that were read."""
    return logits[inputs["decoder_attention_mask"].bool()]
