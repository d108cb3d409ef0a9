"""Sounds as rows hold them, as one channel of numbers at the rate that a backbone was trained with."""

from __future__ import annotations

import importlib.util
import io
import math
import numbers
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from petune.errors import BackboneError, DataError
from petune.tasks._labels import is_missing

LOUDEST = 8.0
"""Numbers of a wave lie between -1 and 1; somewhat more is loud, much more was never scaled."""
CHANNELS = 8
"""The shorter side of a two-dimensional array of more numbers than this is no row of channels."""
RATES = (1_000, 1_000_000)
"""Samples a second of anything that is a sound; outside of them a number was taken for a rate that is none."""


class Wave(NamedTuple):
    """(samples,) or (samples, channels) float32, and samples a second."""

    numbers: np.ndarray
    rate: int


def open_sound(value: Any, place: str, column: str, rate: int, known: int | None, told: Counter[str]) -> np.ndarray:
    """(samples,) float32 at `rate` samples a second.

    Args:
        value: a path, the bytes of a file, a pair (array, rate), an array, or a mapping with `array` and
            `sampling_rate`, or with `bytes` or `path`, as `datasets` has them.
        rate: samples a second that the backbone takes.
        known: samples a second of arrays that do not tell.
        told: what was converted, counted here.

    Raises:
        DataError: missing, not found, no sound, or an array without a rate or with an impossible one, with the row's
            place.

    Examples:
        >>> open_sound((np.zeros(800), 8000), "row 0", "audio", 16_000, None, Counter()).shape
        (1600,)
    """
    wave = _wave(value, place, column, known)
    numbers = wave.numbers
    if numbers.ndim == 2:
        if numbers.shape[1] > 1:
            told[f"of {numbers.shape[1]} channels were averaged into one"] += 1
        numbers = numbers.mean(1)
    if not numbers.size:
        raise DataError(f"{place}: the sound in column {column!r} is empty.", fix="Drop the row.")
    if not np.isfinite(numbers).all():
        raise DataError(f"{place}: the sound in column {column!r} holds numbers that are not finite.")
    if float(np.abs(numbers).max()) > LOUDEST:
        raise DataError(
            f"{place}: the numbers of the sound go up to {float(np.abs(numbers).max()):g}.",
            expected="They lie between -1 and 1; whole numbers of 16 bits are scaled by themselves.",
            fix="Divide them by the largest that their format knows.",
        )
    if wave.rate != rate:
        told[f"were resampled from {wave.rate:,} to {rate:,} samples a second"] += 1
        numbers = _resampled(numbers, wave.rate, rate)
    return np.ascontiguousarray(numbers, dtype=np.float32)


def seconds_of(value: Any, place: str, column: str, known: int | None) -> float:
    """How long a sound is; a file's head tells, without decoding it.

    Raises:
        DataError: as `open_sound`.
    """
    source = _source(value)
    if isinstance(source, str | bytes):
        with _opened(source, place) as file:
            return float(file.frames / file.samplerate)
    wave = _wave(value, place, column, known)
    return len(wave.numbers) / wave.rate


def _source(value: Any) -> Any:
    """A path as str, the bytes of a file, or what is neither."""
    if isinstance(value, Mapping) and value.get("array") is None and ("bytes" in value or "path" in value):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _wave(value: Any, place: str, column: str, known: int | None) -> Wave:
    source = _source(value)
    if is_missing(source):
        raise DataError(f"{place}: the sound in column {column!r} is missing.", fix="Fill it in or drop the row.")
    if isinstance(source, str | bytes):
        with _opened(source, place) as file:
            return Wave(_read(file, source, place), _rate(file.samplerate, place))
    if isinstance(source, Mapping) and source.get("array") is not None:
        array, rate = source["array"], source.get("sampling_rate")
    else:
        array, rate = source if _is_pair(source) else (source, None)
    if not isinstance(array, np.ndarray | list):
        raise DataError(
            f"{place}: column {column!r} holds a {type(value).__name__}, which is no sound.",
            expected="A path, the bytes of a file, or an array with its sampling rate was expected.",
            fix="Name the column that holds the sounds: audio=...",
        )
    rate = known if is_missing(rate) else rate
    if rate is None:
        raise DataError(
            f"{place}: the sound is an array that does not tell its sampling rate.",
            expected="(array, rate), {'array': ..., 'sampling_rate': ...} or a file tell it.",
            fix="Pass the task sampling_rate=..., where all arrays have the same.",
        )
    return Wave(_scaled(array, place), _rate(rate, place))


def _is_pair(value: Any) -> bool:
    """Whether it is an array and a number, and not two numbers, which are an array."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    return isinstance(value[1], numbers.Real) and not isinstance(value[0], numbers.Real)


def _rate(rate: Any, place: str) -> int:
    """A rate as a whole number; tables make 16000.0 of it where another row has none."""
    number = isinstance(rate, numbers.Real) and not isinstance(rate, bool)
    if not number or not RATES[0] <= rate <= RATES[1] or rate != int(rate):
        raise DataError(
            f"{place}: the sampling rate of the sound is {rate!r}.",
            expected=f"A whole number from {RATES[0]:,} to {RATES[1]:,} samples a second was expected.",
            fix="Correct it, or drop the row.",
        )
    return int(rate)


def _scaled(array: Any, place: str) -> np.ndarray:
    """(samples,) or (samples, channels) float32."""
    try:
        numbers = np.asarray(array)
    except ValueError:  # rows of different lengths
        numbers = np.empty((0, 0, 0))
    if numbers.ndim == 2 and numbers.shape[0] <= CHANNELS < numbers.shape[1]:
        numbers = numbers.T
    if (
        numbers.dtype.kind not in "if"
        or numbers.ndim not in (1, 2)
        or (numbers.ndim == 2 and numbers.shape[1] > CHANNELS)
    ):
        raise DataError(
            f"{place}: an array of shape {numbers.shape} and type {numbers.dtype} is no sound.",
            expected="(samples,), (samples, channels) or (channels, samples) was expected.",
        )
    return (numbers / 32768 if numbers.dtype == np.int16 else numbers).astype(np.float32)


def _opened(source: str | bytes, place: str) -> Any:
    """An open sound file.

    Raises:
        BackboneError: soundfile is not installed.
        DataError: no such file, or it cannot be decoded.
    """
    if importlib.util.find_spec("soundfile") is None:
        raise BackboneError(
            "Files of sounds are read by soundfile, which is not installed.",
            expected="It comes with the extra 'audio'.",
            fix="Run: pip install 'petune[audio]'; arrays with their sampling rate need it not.",
        )
    import soundfile

    path = source if isinstance(source, bytes) else os.path.expanduser(source)
    if isinstance(path, str) and not os.path.exists(path):
        raise DataError(f"{place}: there is no file {path!r}.", expected="Relative paths begin where the program runs.")
    try:
        return soundfile.SoundFile(io.BytesIO(path) if isinstance(path, bytes) else path)
    except Exception as error:  # whatever a decoder may raise on what others wrote
        raise _undecodable(source, place, _line(error)) from error


def _read(file: Any, source: str | bytes, place: str) -> np.ndarray:
    """(samples, channels) float32 of an open file, whole."""
    _refuse_torn(source, place)
    try:
        numbers: np.ndarray = file.read(dtype="float32", always_2d=True)
    except Exception as error:
        raise _undecodable(source, place, _line(error)) from error
    if len(numbers) < file.frames:
        raise _undecodable(source, place, f"it ends after {len(numbers):,} of {file.frames:,} samples")
    return numbers


def _refuse_torn(source: str | bytes, place: str) -> None:
    """A wav file that is shorter than its head says, which decoders pass over in silence."""
    if isinstance(source, bytes):
        head, size = source[:8], len(source)
    else:
        path = os.path.expanduser(source)
        with open(path, "rb") as file:
            head, size = file.read(8), os.path.getsize(path)
    said = int.from_bytes(head[4:8], "little") + 8
    if head[:4] == b"RIFF" and size < said < 2**32:
        raise _undecodable(source, place, f"it ends after {size:,} of {said:,} bytes")


def _undecodable(source: str | bytes, place: str, why: str) -> DataError:
    where = "its bytes" if isinstance(source, bytes) else repr(source)
    return DataError(
        f"{place}: {where} cannot be decoded as a sound ({why}).",
        expected="A whole wav, flac or other file that libsndfile reads was expected.",
        fix="Write the file again, or drop the row.",
    )


def _resampled(numbers: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    made: np.ndarray = resample_poly(numbers.astype(np.float64), wanted // common, rate // common)
    return made


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
