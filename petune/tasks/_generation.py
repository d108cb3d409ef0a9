"""The options of transformers' `generate`: which there are, and of what type, so that a slip is told before a fit."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Collection, Mapping
from typing import Any

from petune.errors import ConfigError
from petune.lookup import unknown

PASSED_ON = ("logits_processor", "stopping_criteria", "streamer", "prefix_allowed_tokens_fn", "tokenizer")
"""Arguments of `generate` that are no settings."""
COUNTS = ("max_new_tokens", "num_beams", "num_return_sequences", "max_length")
"""Whole numbers from 1 on."""
WHOLE = ("min_new_tokens", "min_length", "top_k", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size")
"""Whole numbers from 0 on."""
NUMBERS = (
    "temperature", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty",
    "encoder_repetition_penalty", "length_penalty", "guidance_scale", "max_time",
)  # fmt: skip
FLAGS = (
    "do_sample", "use_cache", "renormalize_logits", "remove_invalid_values", "return_dict_in_generate",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits",
)  # fmt: skip


@functools.cache
def known() -> tuple[str, ...]:
    """The settings that the installed transformers has."""
    from transformers import GenerationConfig

    names = (name for name in vars(GenerationConfig()) if not name.startswith("_"))
    return tuple(name for name in names if name != "transformers_version")


def check_options(options: Mapping[str, Any]) -> None:
    """Refuses names that `generate` does not know and values that it could only stumble over; None leaves one unset.

    Raises:
        ConfigError: with the near name, or with what the option takes.

    Examples:
        >>> check_options({"num_beams": 4, "temperature": 0.7})
        >>> check_options({"num_beams": "four"})
        Traceback (most recent call last):
        petune.errors.ConfigError: num_beams='four' does not fit. It must be a whole number, 1 or more.
    """
    for name, value in options.items():
        if name not in known() and name not in PASSED_ON:
            raise unknown("option of generate", name, [*known(), *PASSED_ON])
        takes = None if value is None else _takes(name, value)
        if takes is not None:
            raise ConfigError(f"{name}={value!r} does not fit.", expected=f"It must be {takes}.")


def refuse(options: Mapping[str, Any], names: Collection[str], why: str) -> None:
    """Raises ConfigError where one of the names is among the options."""
    for name in names:
        if options.get(name) is not None:
            raise ConfigError(f"{name}={options[name]!r} cannot be used here.", expected=why)


def _takes(name: str, value: Any) -> str | None:
    """What an option takes, where that is not the value."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if name in COUNTS or name in WHOLE:
        least = int(name in COUNTS)
        return None if whole and value >= least else f"a whole number, {least} or more"
    if name in NUMBERS:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        return None if real else "a finite number"
    return "True or False" if name in FLAGS and not isinstance(value, bool) else None
