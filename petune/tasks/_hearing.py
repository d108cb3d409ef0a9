"""From the sounds of rows to what a backbone hears: waves of one length, or spectra."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from petune.tasks._columns import Names, cells
from petune.tasks._padding import positions
from petune.tasks._sounds import open_sound, seconds_of
from petune.tasks.base import Encoded, Example, Table

AUDIO = Names(("audio", "sound"), ("speech", "wav", "clip", "recording", "path", "file", "file_name"))
LONGEST = 30.0
"""Seconds of a sound that are heard where nobody says how many: more than backbones were trained with."""


class Spectrum:
    """A spectrum of an example: the wave, of which the extractor makes it when it is asked for.

    A whole window of 30 seconds, mostly silence, takes a megabyte; the wave of a word a hundredth of it.

    Args:
        wave: (samples,) float32.
        extractor: such as Whisper's.
        shape: (bins, frames) of what it makes.
    """

    def __init__(self, wave: np.ndarray, extractor: Any, shape: tuple[int, int]) -> None:
        self.wave, self._extractor, self.shape = wave, extractor, shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        made = self._extractor(self.wave, sampling_rate=self._extractor.sampling_rate, return_tensors="np")
        return np.asarray(made["input_features"][0], dtype=dtype or np.float32)


def longest_of(table: Table, column: str, known: int | None) -> float:
    """Seconds of the longest sound, in hundredths upwards; at most 30.

    Raises:
        DataError: a sound that cannot be read, with the row's place.
    """
    longest = max(seconds_of(value, place, column, known) for place, value in cells(table, column))
    return min(LONGEST, max(0.1, float(np.ceil(longest * 100)) / 100))


def heard(table: Table, column: str, extractor: Any, seconds: float, known: int | None) -> Encoded:
    """Examples with what the backbone hears; what was converted or cut is told.

    Waves are filled up with silence to `seconds`, whatever else is in their batch, because many backbones hear what
    pads. What an extractor makes of longer windows (30 seconds for Whisper) it fills up by itself.

    Args:
        seconds: that are heard; the rest of a longer sound is cut off.
        known: samples a second of arrays that do not tell.

    Raises:
        DataError: what cannot be decoded, with the row's place.
    """
    told: Counter[str] = Counter()
    rate = int(extractor.sampling_rate)
    most = min(seconds, getattr(extractor, "chunk_length", None) or seconds)
    samples = round(most * rate)
    examples: list[Example] = []
    for place, value in cells(table, column):
        wave = open_sound(value, place, column, rate, known, told)
        if len(wave) > samples:
            told[f"were longer than {most:g} seconds and were cut"] += 1
            wave = wave[:samples]
        examples.append(_example(wave, extractor, samples))
    return Encoded(
        examples, [f"{table.source}: {count} of {len(table)} sounds {what}." for what, count in told.items()]
    )


def _example(wave: np.ndarray, extractor: Any, samples: int) -> Example:
    frames = getattr(extractor, "nb_max_frames", None)
    if frames is not None:
        spectrum = Spectrum(wave, extractor, (int(extractor.feature_size), int(frames)))
        return {"input_features": spectrum, "_pieces": positions(spectrum.shape)}
    made: Mapping[str, Any] = extractor(wave, sampling_rate=extractor.sampling_rate, return_tensors="np")
    name = extractor.model_input_names[0]
    heard = np.asarray(made[name][0], dtype=np.float32)
    if heard.ndim > 1:
        return {name: heard, "_pieces": positions(heard.shape)}
    rest = samples - len(heard)
    example: Example = {name: np.pad(heard, (0, rest)), "_pieces": positions((samples,))}
    if extractor.return_attention_mask:
        example["attention_mask"] = np.pad(np.ones(len(heard), np.uint8), (0, rest))
    return example
