"""The words of an error as the command line has them: options in place of Python's arguments."""

from __future__ import annotations

import dataclasses
import re

_FIT = ("resume", "continue_from", "processes", "eval_data", "quantize", "tokenizer")
"""Arguments of `fit` and of `Tuner` that are options too."""
_CONFIG = re.compile(r"TrainConfig\((\w+)=\.\.\.\)")
_KNOB = re.compile(r"(?<![\w.(])(\w+)=(?:'([^']*)'|\"([^\"]*)\"|(\.\.\.))")


def spelt(text: str) -> str:
    """The text with `--name value` for `name='value'`, where that is an option of its own.

    Examples:
        >>> spelt("Pass TrainConfig(output_dir=...), or resume='auto'.")
        'Pass --output-dir, or --resume auto.'
        >>> spelt("Its kind is 'a=b'; epochs=0 is out of range.")
        "Its kind is 'a=b'; epochs=0 is out of range."
    """
    return _KNOB.sub(_option, _CONFIG.sub(lambda found: _named(found[1]), text))


def _option(found: re.Match[str]) -> str:
    name, value = found[1], found[2] or found[3] or ""
    return f"{_named(name)} {value}".rstrip() if name in _options() else found[0]


def _options() -> set[str]:
    from petune.config import TrainConfig

    return {*_FIT, *(field.name for field in dataclasses.fields(TrainConfig))}


def _named(name: str) -> str:
    return f"--{name.replace('_', '-')}"
