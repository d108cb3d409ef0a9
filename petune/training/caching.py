"""Whether a run caches its trunk, where its states have their place, and the cache, filled.

The cache is filled before the first step, in batches that are always the same ones, so what it holds does not depend on
where a run was paused. What it does was compared with the uncached model on some rows before it is used. Several
processes decide alike: each step that may fail is agreed on before the next one.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from petune.config import TrainConfig
from petune.errors import ConfigError
from petune.storage import strict_json
from petune.storage.packing import identity
from petune.storage.trunk_file import Shelf
from petune.training.cacheable import NothingToCacheError, UnfitError, estimated_bytes, prove, refuse
from petune.training.filling import confirm, fill, publish
from petune.training.free_memory import free_bytes
from petune.training.memory import MEGABYTE
from petune.training.progress import say
from petune.training.trainee import Trainee
from petune.training.trunk_cache import TrunkCache

SHARE_OF_MEMORY = 4
"""The cache takes at most this part of the free memory, if nothing else is said."""


OF_NO_ACCOUNT = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "transformers_version")
"""Settings of a backbone that its blocks do not know."""
T = TypeVar("T")


class Caching(NamedTuple):
    """What became of a trainee's wish for a cache.

    Args:
        cache: filled; None: there is none.
        notice: what the report says; empty: nothing.
        seconds: that filling took.
        identity: a digest of what decides the states besides the rows; empty without a cache.
    """

    cache: TrunkCache | None = None
    notice: str = ""
    seconds: float = 0.0
    identity: str = ""


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
        decided = strict_json.dumps(self._identity(trainee)).encode()
        return Caching(cache, notice, time.perf_counter() - began, hashlib.sha256(decided).hexdigest())

    def _filled(self, trainee: Trainee) -> tuple[TrunkCache, str]:
        learner, config, accelerator = trainee.learner, trainee.config, self.accelerator
        self._together(lambda: refuse(learner, config))
        trunk = learner.trunk
        assert trunk is not None
        shell = learner.adapter.shell
        key: Hashable = (type(shell.base), learner.lowest_block)
        examples = [*trainee.examples, *(trainee.eval_examples or ())]
        if key not in self.made:
            self.stack.enter_context(trunk.listening())
            tried = self._together(lambda: prove(trainee, accelerator))
            needed = estimated_bytes(trunk, tried.states, examples)
            cache = TrunkCache(trunk, *self._place(trainee, needed))
            self._together(lambda: confirm(cache, tried))
            if config.progress != "off":
                say([f"The trunk's states of {len(examples):,} rows take about {needed / MEGABYTE:,.1f} MB."])
            self.made[key] = cache
        cache = self.made[key]
        learner.trunk = cache.trunk
        self._together(lambda: fill(cache, trainee, accelerator, examples))
        if cache.shelf is not None:
            self._together(lambda: publish(cache))
        if accelerator.num_processes > 1:
            cache.reread()
        return cache, (
            f"The trunk ({cache.trunk.depth} of {len(shell.backbone.blocks(shell.base))} blocks) was computed once for "
            f"{len(examples):,} rows; {cache.nbytes / MEGABYTE:,.1f} MB are kept."
        )

    def _together(self, work: Callable[[], T]) -> T:
        """Does something on every process; where one cannot, all give up for its reason.

        Raises:
            UnfitError: the reason.
        """
        made, reason = None, None
        try:
            made = work()
        except UnfitError as error:
            reason = error
        if self.accelerator.num_processes > 1:
            reason = next((each for each in gather_object([reason]) if each is not None), None)
        if reason is not None:
            raise reason
        return made  # type: ignore[return-value]

    def _place(self, trainee: Trainee, needed: int) -> tuple[int, Shelf | None]:
        """Bytes of memory, and where the rest goes, as the main process finds it.

        Raises:
            UnfitError: neither memory nor disk would hold it.
        """
        found: list[tuple[int, str | None] | None] = [None]
        if self.accelerator.is_main_process:
            found = [place(trainee.config, needed, self.accelerator.num_processes, self._temporary)]
        if self.accelerator.num_processes > 1:
            found = broadcast_object_list(found)
        assert found[0] is not None
        memory, folder = found[0]
        if memory < 0:
            raise UnfitError(str(folder))
        return memory, None if folder is None else Shelf.of(folder, self._identity(trainee))

    def _temporary(self) -> str:
        """A folder for this fit, which goes when it ends."""
        return self.stack.enter_context(tempfile.TemporaryDirectory(prefix="petune-trunk-"))

    def _identity(self, trainee: Trainee) -> dict[str, object]:
        """What decides the states of a row besides its pieces."""
        shell, trunk = trainee.learner.adapter.shell, trainee.learner.trunk
        assert trunk is not None
        model = shell.backbone.model
        settings = {name: it for name, it in model.config.to_dict().items() if name not in OF_NO_ACCOUNT}
        return {
            "backbone": identity(shell.backbone),
            "class": type(shell.base).__name__,
            "settings": repr(sorted(settings.items())),
            "attention": str(model.config._attn_implementation).removeprefix("petune_"),
            "blocks": [len(stack.blocks) for stack in trunk.stacks],
            "dtype": str(shell.backbone.dtype),
            "device": self.accelerator.device.type,
            "precision": [trainee.config.mixed_precision, torch.get_float32_matmul_precision()],
            "versions": [torch.__version__, transformers.__version__],
        }


def place(config: TrainConfig, needed: int, processes: int, temporary: Callable[[], str]) -> tuple[int, str | None]:
    """Bytes of memory, and the folder for the rest; -1 and the reason where the states have no place.

    Args:
        needed: bytes of all states.
        temporary: makes a folder for this fit.
    """
    memory = free_bytes() // SHARE_OF_MEMORY if config.cache_bytes is None else config.cache_bytes
    folder = None if config.cache_dir is None else str(config.cache_dir)
    if folder is None and (processes > 1 or (needed > memory and config.cache_trunk is True)):
        folder = temporary()
    if folder is None:
        short = f"{needed / MEGABYTE:,.0f} MB, and {memory / MEGABYTE:,.0f} MB of memory are theirs"
        told = f"its states take about {short}. Pass cache_dir, or a larger cache_bytes."
        return (-1, told) if needed > memory else (memory, None)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return -1, f"cache_dir={folder!r} is no folder that can be written to ({error.strerror}). Pass another one."
    to_disk = needed if processes > 1 or config.cache_dir is not None else needed - memory
    if to_disk > shutil.disk_usage(folder).free:
        return -1, f"{to_disk / MEGABYTE:,.0f} MB do not fit on the disk of {folder}, nor into memory."
    return memory, folder
