"""Errors about a folder say which folder, and what to do; what nobody foresaw is an error of petune's as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from petune.errors import AdapterFileError, PetuneError

FIX = "Copy or download the folder again, or save the adapter again."


@contextmanager
def about(folder: str | Path) -> Iterator[None]:
    """Inside, every error is one of petune's that names the folder and ends with what to do.

    Raises:
        AdapterFileError: in the place of an error that no check foresaw.

    Examples:
        >>> with about("adapters/mood"):
        ...     raise AdapterFileError("The rank is 3.")
        Traceback (most recent call last):
        petune.errors.AdapterFileError: adapters/mood: The rank is 3. Copy or download the folder again, or save ...
    """
    try:
        yield
    except PetuneError as error:
        named = str(folder) in str(error)
        if named and error.fix:
            raise
        what = error.what if named else f"{folder}: {error.what}"
        raise type(error)(what, expected=error.expected, fix=error.fix or FIX) from error
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise AdapterFileError(
            f"{folder} could not be loaded ({type(error).__name__}: {error}).",
            expected="A folder that petune or peft wrote.",
            fix=FIX,
        ) from error
