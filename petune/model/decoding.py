"""How a call of `generate` decodes: the checkpoint's own settings, with the caller's on top."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig
from transformers.generation.configuration_utils import GenerationMode

from petune.errors import BackboneError, ConfigError, PetuneError
from petune.model.shell import Shell
from petune.tasks._generation import check_options, known

MAX_NEW_TOKENS = 64
"""Pieces written at most where nobody says how many."""
MODES = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE, GenerationMode.BEAM_SEARCH)
"""Strategies under which the rows of a batch do not see each other."""
OF_SAMPLING = ("temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


@contextmanager
def told() -> Iterator[None]:
    """What transformers thinks of options that do not go together, as petune's error."""
    try:
        yield
    except PetuneError:
        raise
    except ValueError as error:
        raise ConfigError(f"transformers cannot generate so: {error}") from error


def settings(shell: Shell, options: Mapping[str, Any], rows: int) -> GenerationConfig:
    """The settings of one call.

    Args:
        options: of `generate`, those of `PASSED_ON` among them.
        rows: B.

    Raises:
        ConfigError: an unknown option, or a strategy other than greedy, sampled or beam search.
        BackboneError: no pad token for several rows.
    """
    config: GenerationConfig = copy.deepcopy(shell.model.generation_config)
    check_options(options)
    given = {name: value for name, value in options.items() if name in known() and value is not None}
    _bound(shell, config, given)
    if config.pad_token_id is None:
        config.pad_token_id = shell.backbone.pad_token_id
    with told():
        config.update(**given)
    _refuse(config, rows)
    if not config.do_sample:
        for name in OF_SAMPLING:  # a checkpoint's own, which only sampling asks for
            setattr(config, name, None)
    return config


def _bound(shell: Shell, config: GenerationConfig, given: dict[str, Any]) -> None:
    """Sees to it that there is one bound on what is written; `max_length` is one for encoder-decoders only."""
    if shell.model.config.is_encoder_decoder:
        config.prefill_chunk_size = None
        if "prefill_chunk_size" in given:  # transformers would cut the encoder's mask as well
            raise ConfigError("prefill_chunk_size is of no use here.", expected="Only a decoder reads its prompt.")
    else:
        config.max_length = config.min_length = None
        for name in given.keys() & {"max_length", "min_length"}:
            raise ConfigError(
                f"{name}={given[name]!r} would count the padding of a batch's rows as well.",
                expected="A row is to be written as if it were alone.",
                fix=f"Pass {name.removesuffix('_length')}_new_tokens=...",
            )
    if "max_new_tokens" in given:
        config.max_length = None
    elif "max_length" not in given and config.max_length is None:
        given["max_new_tokens"] = config.max_new_tokens or MAX_NEW_TOKENS


def _refuse(config: GenerationConfig, rows: int) -> None:
    mode = config.get_generation_mode()
    if mode not in MODES:
        raise ConfigError(
            f"These options ask for {mode.value.replace('_', ' ')}.",
            expected="petune writes by greedy, sampled or beam search, in which rows do not see each other.",
            fix="Drop num_beams to sample, or do_sample to search.",
        )
    if config.pad_token_id is None and (rows > 1 or (config.num_beams or 1) > 1):
        raise BackboneError(
            "The backbone has no pad token.",
            expected="Rows of one batch end at different places, and are padded there.",
            fix="Pass pad_token_id=..., such as the end-of-sequence piece.",
        )
