"""Whether a run caches its trunk: what it would take, what speaks against it, and the cache, filled.

The cache is filled before the first step, in batches of rows of one length, so what it holds does not depend on where a
run was paused. What is in it was compared with the uncached model on some rows before it is used.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from petune.data.batching import ordered_batches
from petune.errors import ConfigError
from petune.storage.packing import identity
from petune.storage.trunk_file import Shelf
from petune.tasks.base import Example
from petune.training.batches import length_of, on_device
from petune.training.cacheable import NothingToCacheError, UnfitError, estimated_bytes, evaluates_alike, prove, refuse
from petune.training.free_memory import free_bytes
from petune.training.memory import MEGABYTE
from petune.training.trainee import Trainee
from petune.training.trunk_cache import TrunkCache

ROWS = 32
"""Rows of a batch that fills the cache."""
SHARE_OF_MEMORY = 4
"""The cache takes at most this part of the free memory, if nothing else is said."""


class Caching(NamedTuple):
    """What became of a trainee's wish for a cache.

    Args:
        cache: filled; None: there is none.
        notice: what the report says; empty: nothing.
        seconds: that filling took.
    """

    cache: TrunkCache | None = None
    notice: str = ""
    seconds: float = 0.0


NO_CACHE = Caching()


@dataclass
class Caches:
    """The caches of one fit; learners with the same trunk share one."""

    accelerator: Accelerator
    stack: ExitStack
    made: dict[Hashable, TrunkCache] = field(default_factory=dict)

    def for_trainee(self, trainee: Trainee) -> Caching:
        """The cache of one trainee, who is in fitting mode; its random numbers and modes are left alone.

        Raises:
            ConfigError: `cache_trunk=True`, and it cannot be.
        """
        config = trainee.config
        if config.cache_trunk is False:
            return Caching()
        began = time.perf_counter()
        try:
            cache, notice = self._filled(trainee)
        except UnfitError as reason:
            if config.cache_trunk is True:
                raise ConfigError(
                    f"cache_trunk=True, but {reason}", fix="Pass cache_trunk='auto' or False."
                ) from reason
            told = "" if isinstance(reason, NothingToCacheError) else f"The trunk is not cached: {reason}"
            return Caching(notice=told)
        return Caching(cache, notice, time.perf_counter() - began)

    def _filled(self, trainee: Trainee) -> tuple[TrunkCache, str]:
        learner, config = trainee.learner, trainee.config
        refuse(learner, config)
        trunk = learner.trunk
        assert trunk is not None
        shell = learner.adapter.shell
        key: Hashable = (type(shell.base), learner.lowest_block)
        examples = [*trainee.examples, *(trainee.eval_examples or () if evaluates_alike(config) else ())]
        if key in self.made:
            learner.trunk = self.made[key].trunk
        else:
            self.stack.enter_context(trunk.listening())
            some = prove(trainee, self.accelerator)
            self.made[key] = TrunkCache(trunk, *self._place(trainee, estimated_bytes(trunk, some, examples)))
        cache = self.made[key]
        self._fill(cache, trainee, examples)
        size = cache.nbytes / MEGABYTE
        return cache, (
            f"The trunk ({cache.trunk.depth} of {len(shell.backbone.blocks(shell.base))} blocks) was computed once: "
            f"{size:,.1f} MB for {len(cache):,} rows."
        )

    def _place(self, trainee: Trainee, needed: int) -> tuple[int, Shelf | None]:
        """Bytes of memory, and where the rest goes.

        Raises:
            UnfitError: neither memory nor disk would hold it.
        """
        config, processes = trainee.config, self.accelerator.num_processes
        memory = free_bytes() // SHARE_OF_MEMORY if config.cache_bytes is None else config.cache_bytes
        folder = config.cache_dir
        if folder is None and (processes > 1 or (needed > memory and config.cache_trunk is True)):
            folder = self._temporary()
        if folder is None and needed > memory:
            raise UnfitError(
                f"its states take about {needed / MEGABYTE:,.0f} MB, and {memory / MEGABYTE:,.0f} MB of memory are "
                "theirs. Pass cache_dir, or a larger cache_bytes."
            )
        if folder is None:
            return needed, None
        Path(folder).mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        to_disk = needed if processes > 1 or config.cache_dir is not None else needed - memory
        if to_disk > free:
            raise UnfitError(f"{to_disk / MEGABYTE:,.0f} MB do not fit on the disk of {folder}, nor into memory.")
        return memory, Shelf.of(folder, self._identity(trainee))

    def _temporary(self) -> str:
        """A folder for this fit, the same for all processes; the one that made it takes it away."""
        found = [""]
        if self.accelerator.is_main_process:
            found = [self.stack.enter_context(tempfile.TemporaryDirectory(prefix="petune-trunk-"))]
        return str(broadcast_object_list(found)[0]) if self.accelerator.num_processes > 1 else found[0]

    def _identity(self, trainee: Trainee) -> dict[str, object]:
        """What decides the states of a row besides its pieces."""
        shell, trunk = trainee.learner.adapter.shell, trainee.learner.trunk
        assert trunk is not None
        return {
            "backbone": identity(shell.backbone),
            "class": type(shell.base).__name__,
            "blocks": [len(stack.blocks) for stack in trunk.stacks],
            "dtype": str(shell.backbone.dtype),
            "precision": trainee.config.mixed_precision,
            "versions": [torch.__version__, transformers.__version__],
        }

    def _fill(self, cache: TrunkCache, trainee: Trainee, examples: Sequence[Example]) -> None:
        """Computes what is not there yet, every process its share, and shares it."""
        accelerator, collate = self.accelerator, trainee.task.collate
        batches = ordered_batches([length_of(example) for example in examples], ROWS)
        trainee.learner.mode(False)
        for rows in batches[accelerator.process_index :: accelerator.num_processes]:
            some = [examples[row] for row in rows]
            keys = cache.keys(collate(some, trainee.tokenizer).inputs)
            if keys is None:
                raise UnfitError("its batches do not tell where the padding is, or pad on the left.")
            new = {key: row for key, row in zip(keys, some, strict=True) if key not in cache}
            if new:
                inputs = collate(list(new.values()), trainee.tokenizer).inputs
                with accelerator.autocast():
                    states = trainee.learner.trunk_states(on_device(inputs, accelerator.device))
                cache.keep(list(new), states, cache.trunk.lengths(inputs) or [])
        trainee.learner.mode(True)
        cache.publish()
        accelerator.wait_for_everyone()
        cache.reread()
