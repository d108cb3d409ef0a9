"""Launches that would quietly be something else than was asked for: one process in place of several, no DeepSpeed."""

from __future__ import annotations

import os

from accelerate import Accelerator

from petune.errors import ConfigError

TRUE = ("1", "true", "yes", "on", "y", "t")


def refuse_deepspeed() -> None:
    """Refuses DeepSpeed before Accelerate looks for it; on a CPU it would leave it out without a word.

    Raises:
        ConfigError: `accelerate config` asks for it.
    """
    if _asked_for("ACCELERATE_USE_DEEPSPEED"):
        raise ConfigError(
            "DeepSpeed was asked for by the configuration of accelerate.",
            expected="petune's loop steps its own optimizer; DeepSpeed's engine wants to do that itself.",
            fix="Choose multi-GPU (DDP) in accelerate config: the optimizer state of an adapter is small.",
        )


def refuse_fewer_processes(accelerator: Accelerator) -> None:
    """Refuses a run of one process where several were launched: each would train for itself, and all write.

    Raises:
        ConfigError: that is so.
    """
    if accelerator.num_processes > 1:
        return
    world = int(os.environ.get("WORLD_SIZE") or 1)
    if world > 1:
        raise ConfigError(
            f"{world} processes were launched (WORLD_SIZE={world}), and Accelerate sees one.",
            expected="They train one adapter together.",
            fix="Make no Accelerator and no process group before fit, or make it with cpu=True where there is no GPU.",
        )
    # accelerate's simple launcher sets the address for several processes, and then starts one.
    if _asked_for("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "`accelerate launch --cpu` was asked for several processes, and has started one.",
            expected="On a CPU its option --multi_gpu starts several, and so do torchrun and fit(processes=N).",
            fix="Use `accelerate launch --multi_gpu --num_processes N`, without --cpu.",
        )


def _asked_for(name: str) -> bool:
    return os.environ.get(name, "").lower() in TRUE
