"""Whether the frozen weights are to be sharded: a knob of the configuration, or the words of `accelerate launch`.

`accelerate launch --use_fsdp` speaks through environment variables. Accelerate would act on them by itself, and would
look for the backbone inside of the module that it is given; on a CPU it falls back to DDP without a word. So they are
read here, answered or refused, and kept from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from petune.config import TrainConfig
from petune.errors import ConfigError

FLAG = "ACCELERATE_USE_FSDP"
INSTEAD = {
    "FSDP_OFFLOAD_PARAMS": "the shards stay on the device; leave --fsdp_offload_params out",
    "FSDP_ACTIVATION_CHECKPOINTING": "use TrainConfig(gradient_checkpointing=True)",
}
"""Wishes of the launcher that petune does not take from there, and what to do."""


def wanted(config: TrainConfig) -> Literal["fsdp2"] | None:
    """How the frozen weights are to be sharded; None: every process holds all of them.

    Raises:
        ConfigError: the launcher asks for what petune does not do.

    Examples:
        >>> wanted(TrainConfig(sharding="fsdp2"))
        'fsdp2'
        >>> wanted(TrainConfig()) is None
        True
    """
    if not _is_on(FLAG):
        return config.sharding
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ConfigError(
            f"The processes were launched with FSDP in version {version}.",
            expected="petune shards the frozen weights with FSDP2.",
            fix="Launch with --fsdp_version 2, or without --use_fsdp and with TrainConfig(sharding='fsdp2').",
        )
    for name, fix in INSTEAD.items():
        if _is_on(name):
            raise ConfigError(
                f"The processes were launched with {name}={os.environ[name]}.",
                expected="Of the launcher's words on FSDP petune takes --use_fsdp --fsdp_version 2.",
                fix=f"Here {fix}.",
            )
    return "fsdp2"


@contextmanager
def unheard() -> Iterator[None]:
    """Accelerate does not hear what was said of FSDP."""
    said = os.environ.pop(FLAG, None)
    try:
        yield
    finally:
        if said is not None:
            os.environ[FLAG] = said


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
