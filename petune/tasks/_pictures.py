"""Pictures as rows hold them, opened, upright and in three colours; and as examples hold them, one byte a value."""

from __future__ import annotations

import importlib.util
import io
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from petune.errors import BackboneError, DataError
from petune.tasks._labels import is_missing


class Pixels:
    """A picture of an example: (3, H, W) bytes, which become the processor's float32 numbers when they are asked for.

    A quarter of the memory, and the same bits: the processor itself resizes first, and rescales and normalises later.

    Args:
        kept: (3, H, W) uint8, of the size that the backbone takes.
        processor: an image processor of transformers.
    """

    def __init__(self, kept: np.ndarray, processor: Any) -> None:
        self.kept, self._processor = kept, processor

    @property
    def shape(self) -> tuple[int, ...]:
        """(3, H, W)."""
        return self.kept.shape

    @property
    def nbytes(self) -> int:
        """Of what is kept."""
        return self.kept.nbytes

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        made = self._processor(images=[self.kept], do_resize=False, do_center_crop=False, return_tensors="np")
        return np.asarray(made["pixel_values"][0], dtype=dtype or np.float32)


def need_pillow() -> None:
    """Refuses to go on without Pillow.

    Raises:
        BackboneError: with the extra that brings it.
    """
    if importlib.util.find_spec("PIL") is None:
        raise BackboneError(
            "Pictures are read by Pillow, which is not installed.",
            expected="It comes with the extra 'vision'.",
            fix="Run: pip install 'petune[vision]'.",
        )


def resized(image: Any, processor: Any, size: int | None, place: str) -> np.ndarray:
    """(3, H, W) uint8 of a picture, resized (and cut, if the processor does) as the processor says.

    Args:
        image: a PIL image in RGB.
        size: pixels of both sides in place of the processor's own; None: its own.

    Raises:
        DataError: the processor cannot resize it.
    """
    own = {} if size is None else _sides(processor, size)
    try:
        made = processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="np", **own)
        return np.asarray(made["pixel_values"][0], dtype=np.uint8)
    except (ValueError, TypeError, OSError, ZeroDivisionError) as error:
        raise DataError(
            f"{place}: the picture of {image.width} by {image.height} pixels cannot be resized ({_line(error)}).",
            fix="Drop the row, or give the picture a usual shape.",
        ) from error


def _sides(processor: Any, size: int) -> dict[str, Any]:
    """What makes pictures of `size` by `size` pixels, in the processor's own way of saying it."""
    square = {"height": size, "width": size}
    if getattr(processor, "do_center_crop", False):
        whole = {"shortest_edge": size} if getattr(processor.size, "shortest_edge", None) else square
        return {"size": whole, "crop_size": square}
    return {"size": square}


def open_picture(value: Any, place: str, column: str, told: Counter[str]) -> Any:
    """A PIL image in RGB, upright.

    Args:
        value: a path, the bytes of a file, a PIL image, an array (H, W), (H, W, 1 to 4) or (1, 3 or 4, H, W) of bytes
            or of numbers from 0 to 1, or a mapping with `bytes` or `path`, as `datasets` has them.
        told: what was converted, counted here.

    Raises:
        DataError: missing, not found, or no picture, with the row's place.

    Examples:
        >>> open_picture(np.zeros((4, 6), np.uint8), "row 0", "image", Counter()).size
        (6, 4)
    """
    if isinstance(value, Mapping) and ("bytes" in value or "path" in value):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if is_missing(value):
        raise DataError(f"{place}: the picture in column {column!r} is missing.", fix="Fill it in or drop the row.")
    if isinstance(value, str | os.PathLike | bytes | bytearray):
        return _in_three(_decoded(value, place), told, place)
    if isinstance(value, np.ndarray | list):
        return _in_three(_of_array(value, place), told, place)
    if hasattr(value, "getbands") and hasattr(value, "convert"):
        return _in_three(_loaded(value, place), told, place)
    raise DataError(
        f"{place}: column {column!r} holds a {type(value).__name__}, which is no picture.",
        expected="A path, the bytes of a file, a PIL image or an array was expected.",
        fix="Name the column that holds the pictures: image=...",
    )


def _decoded(value: str | os.PathLike[str] | bytes | bytearray, place: str) -> Any:
    from PIL import Image

    where = "its bytes" if isinstance(value, bytes | bytearray) else repr(os.fspath(value))
    try:
        source: Any = io.BytesIO(value) if isinstance(value, bytes | bytearray) else os.path.expanduser(value)
        with Image.open(source) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise DataError(
            f"{place}: there is no file {where}.", expected="Relative paths begin where the program runs."
        ) from None
    except Exception as error:  # whatever a decoder may raise on what others wrote
        raise _undecodable(place, where, error) from error


def _loaded(image: Any, place: str) -> Any:
    try:
        image.load()
        return image
    except Exception as error:  # opened lazily, so what is wrong with the file shows here
        raise _undecodable(place, "it", error) from error


def _undecodable(place: str, where: str, error: Exception) -> DataError:
    return DataError(
        f"{place}: {where} cannot be decoded as a picture ({_line(error)}).",
        expected="A whole PNG, JPEG or other file that Pillow reads was expected.",
        fix="Write the file again, or drop the row.",
    )


def _of_array(value: Any, place: str) -> Any:
    """A PIL image of numbers."""
    from PIL import Image

    array = np.asarray(value) if not isinstance(value, list) or _is_regular(value) else np.empty(0)
    if array.ndim == 3 and array.shape[-1] > 4 >= array.shape[0]:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    fits = array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4)))
    if not fits or array.dtype.kind not in "uif":
        raise DataError(
            f"{place}: an array of shape {array.shape} and type {array.dtype} is no picture.",
            expected="(H, W), (H, W, 3), (H, W, 4), (3, H, W) and the like were expected.",
        )
    low, high = float(array.min()), float(array.max())
    top = 1.0 if array.dtype.kind == "f" else 255.0
    if not 0 <= low <= high <= top:
        raise DataError(
            f"{place}: the numbers of a picture go from {low:g} to {high:g}.",
            expected="Whole numbers go from 0 to 255, others from 0 to 1.",
            fix="Scale them, and leave normalising to the backbone's own image processor.",
        )
    return Image.fromarray((array * 255).round().astype(np.uint8) if top == 1.0 else array.astype(np.uint8))


def _is_regular(value: list[Any]) -> bool:
    try:
        np.asarray(value)
        return True
    except ValueError:  # rows of different lengths
        return False


def _in_three(image: Any, told: Counter[str], place: str) -> Any:
    """Upright, and in RGB; what is transparent becomes white."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode in ("F", "I"):
        raise DataError(
            f"{place}: a picture of Pillow's mode {image.mode!r} has no known range of brightness.",
            expected="8 or 16 bits a value were expected.",
            fix="Convert it to bytes first.",
        )
    if image.mode.startswith("I;16"):
        told["had 16 bits of grey"] += 1
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        told["were laid on white where they are transparent"] += 1
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    told["were grey" if image.mode in ("L", "1") else f"had the colours {image.mode}"] += 1
    return image.convert("RGB")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
