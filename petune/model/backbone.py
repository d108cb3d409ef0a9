"""The backbone: the frozen transformers model that adapters borrow."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from petune.errors import BackboneError, ConfigError, PetuneError
from petune.lookup import name_of
from petune.methods.base import Method, Site
from petune.model import quantizing
from petune.model.compiling import compile_blocks
from petune.model.completing import base_of, completed
from petune.model.families import FAMILIES
from petune.model.sites import block_list, find_sites


class Merged(NamedTuple):
    """Which adapter is merged into a backbone, and by whom."""

    name: str
    by: object


class Backbone:
    """One shared base model (transformers' `AutoModel`), and what its checkpoint did not hold.

    Args:
        model: the base model, or a model with a head, of which the base model is taken.
        source: the folder or hub id it came from; empty when it was handed over as an object.
        missing: parameters of the base model that the checkpoint lacked, so they belong to a head (BERT's pooler).
        opened: the model was read from `source`, so that what lies around it can be read from there as well.
        rounded: it was quantised while it was read, so that the files hold the weights from before.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        source: str = "",
        missing: frozenset[str] = frozenset(),
        *,
        opened: bool = False,
        rounded: bool = False,
    ) -> None:
        self.model: PreTrainedModel = base_of(model)
        self.source = source or str(getattr(model, "name_or_path", "") or "")
        self.missing = missing
        self.rounded = rounded
        self.quantized = quantizing.kind(self.model)
        """`"4bit"`, `"8bit"`, or None."""
        quantizing.settle(self.model)
        self.given: PreTrainedModel | None = None if opened else model
        """The model that was handed over, whose `lm_head` belongs to the backbone."""
        self.outputs: dict[type, Any] = {}
        """Class of language model -> what the checkpoint holds around the base model, once a task needed it."""
        self.built: dict[object, object] = {}
        """Shells and layers that were built here before, for those of the same shape that come from files."""
        self.pad_token_id: int | None = getattr(model.config, "pad_token_id", None)
        """The piece that rows are padded with; a tokenizer may know it where the configuration does not."""
        self.fingerprint: str | None = None
        """The digest of its weights as stored, once somebody asked for it."""
        self.output_fingerprints: dict[type, str] = {}
        """Class of language model -> the digest of what is around the base model, likewise."""

    @classmethod
    def open(cls, source: str | Path | PreTrainedModel, quantize: str | None = None) -> Backbone:
        """A backbone from a folder, a hub id or a model that is loaded already.

        Args:
            quantize: `"4bit"` or `"8bit"`: the linear maps of the blocks are packed by bitsandbytes as they are read.

        Raises:
            BackboneError: the folder or id holds no transformers model, or one that cannot be quantised so.
            UnknownNameError: another word for `quantize`.
        """
        if quantize is not None:
            quantizing.check_word(quantize)
        if isinstance(source, nn.Module):
            if not isinstance(source, PreTrainedModel):
                raise BackboneError(
                    f"A {type(source).__name__} is no transformers model.",
                    expected="The backbone is a PreTrainedModel, a folder or a hub id.",
                )
            whole, missing = completed(base_of(source))
            made = cls(whole, str(getattr(source, "name_or_path", "") or ""), missing)
            made.given = source
            if quantize not in (None, made.quantized):
                raise BackboneError(
                    f"The model that was given is loaded already, and not in {quantize}.",
                    expected="Weights are quantised while they are read.",
                    fix="Pass its folder or id, or load it with transformers' BitsAndBytesConfig.",
                )
            return made
        try:
            with quiet():
                model, missing, rounded = quantizing.load(str(source), quantize)
        except PetuneError:
            raise
        except Exception as error:  # whatever a loader of files from elsewhere may raise
            raise BackboneError(
                f"No transformers model could be loaded from {str(source)!r}: {_first_line(error)}",
                expected="The backbone is a folder written by save_pretrained, or a hub id.",
                fix="Check the path; without a network the model must be in the local cache.",
            ) from error
        return cls(model.eval(), str(source), missing, opened=True, rounded=rounded)

    def __getstate__(self) -> dict[str, Any]:
        """What a deep copy is made of; it builds its own."""
        return {**self.__dict__, "built": {}}

    def copied(self, memo: dict[int, Any] | None = None) -> Backbone:
        """A backbone whose every weight is its own, those around the base model and their ties included."""
        made = Backbone.__new__(Backbone)
        made.__dict__.update(self.__dict__)
        # One copy for all, so that a weight in two places stays one weight.
        made.model, made.given, made.outputs = copy.deepcopy((self.model, self.given, self.outputs), memo)
        made.fingerprint, made.output_fingerprints, made.built = None, {}, {}
        quantizing.settle(made.model)
        return made

    @property
    def merged(self) -> Merged | None:
        """What is merged into the weights, whoever did it: the note lies on the model itself, and a copy copies it."""
        return self.model.__dict__.get("_petune_merged")  # every tap asks: getattr of a module is slow where it fails

    @merged.setter
    def merged(self, note: Merged | None) -> None:
        self.model._petune_merged = note  # type: ignore[assignment]

    @property
    def model_type(self) -> str:
        """transformers' name of the architecture, such as `bert`."""
        return str(self.model.config.model_type)

    @property
    def device(self) -> torch.device:
        """Where the backbone's weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the backbone's weights."""
        return self.model.dtype

    @property
    def vocabulary(self) -> int | None:
        """How many pieces the backbone knows; None where it reads none."""
        try:
            table = self.model.get_input_embeddings()
        except NotImplementedError:
            return None
        return getattr(table, "num_embeddings", None)

    @property
    def positions(self) -> int | None:
        """The longest input in pieces; None where the architecture sets no limit (T5)."""
        config = self.model.config
        if self.model_type == "t5":
            return None
        names = (
            "max_position_embeddings",
            "n_positions",
            "max_target_positions",
        )  # the last: pieces that Whisper writes
        limit = next((found for name in names if (found := getattr(config, name, None))), None)
        # RoBERTa's positions start behind the padding index, so two of them are never used.
        offset = (config.pad_token_id or 0) + 1 if self.model_type in ("roberta", "xlm-roberta", "mpnet") else 0
        return int(limit) - offset if limit else None

    def positions_for(self, method: Method) -> int | None:
        """The longest input in pieces beside what adapters of a method take."""
        return None if self.positions is None else self.positions - method.positions()

    def need_size(self, high: int, wide: int) -> None:
        """Refuses pictures of another size than this backbone's positions were learnt for.

        Raises:
            ConfigError: for ViT and DeiT; DINOv2 stretches its positions.
        """
        size = getattr(self.model.config, "image_size", None)
        known = tuple(size) if isinstance(size, list | tuple) else (size, size)
        if self.model_type in ("vit", "deit") and (high, wide) != known:
            raise ConfigError(
                f"The pictures are {wide} by {high} pixels, the backbone takes {known[1]} by {known[0]} alone.",
                expected=f"The positions of {self.model_type} belong to one size.",
                fix="Drop size=..., or pass an image processor that resizes to that size.",
            )

    def named_tensors(self) -> list[tuple[str, torch.Tensor]]:
        """Every weight that the checkpoint holds, by its name in the base model; head parts are left out."""
        named = [(name, p.detach()) for name, p in self.model.named_parameters() if name not in self.missing]
        return named + quantizing.statistics(self.model)

    def check(self, method: Method) -> None:
        """Refuses a method that cannot act here, before anybody reads data.

        Raises:
            BackboneError: a quantised backbone and a method that trains or replaces its modules; or no such site.
            UnknownNameError, ConfigError: wrong module names, blocks or roles.
        """
        if self.quantized and method.residence != "shared":
            why = "trains every weight" if method.residence == "private" else "replaces modules of the backbone"
            raise BackboneError(
                f"The method {name_of('methods', method)!r} {why}, and this backbone is quantised ({self.quantized}).",
                expected="Packed weights stay as they are; adapters act beside them.",
                fix="Use 'lora', 'adalora', 'bottleneck', 'prefix' or 'head', or open the backbone without quantize.",
            )
        if method.residence == "shared":
            self.sites(self.model, method)

    def compile(self, **options: Any) -> Backbone:
        """Compiles the blocks in place, once for all adapters; no route, swap or new adapter at the same sites compiles
        them again. What is no plain serving, such as training, goes on uncompiled.

        Args:
            options: those of `torch.compile`.

        Raises:
            BackboneError: a model without blocks.

        Examples:
            >>> Backbone.open(backbone).compile(backend="eager", fullgraph=True).model_type
            'bert'
        """
        compile_blocks(self, **options)
        return self

    def sites(self, base: nn.Module, method: Method) -> list[Site]:
        """The sites of a method in `base`, this backbone or a shell's own view of it."""
        return find_sites(base, self.model_type, method)

    def blocks(self, base: nn.Module) -> list[tuple[str, nn.Module]]:
        """(path, block) in the order of the data flow; empty for an architecture outside of the table."""
        family = FAMILIES.get(self.model_type)
        return block_list(base, family) if family else []


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_quieting = threading.Lock()
_quiet: list[tuple[int, bool]] = []
"""What was set before the first of those who want quiet now came, once for each of them."""


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without load reports and progress bars; the last of several threads to leave brings them back."""
    with _quieting:
        now = (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
        _quiet.append(_quiet[0] if _quiet else now)
        transformers_logging.set_verbosity(logging.CRITICAL)
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        with _quieting:
            verbosity, bars = _quiet.pop()
            if not _quiet:
                transformers_logging.set_verbosity(verbosity)
                if bars:
                    transformers_logging.enable_progress_bar()


def shell_config(backbone: Backbone, changes: dict[str, Any]) -> Any:
    """The configuration of a task's shell: the backbone's, with the task's labels."""
    config = type(backbone.model.config).from_dict(backbone.model.config.to_dict())
    config._attn_implementation = str(backbone.model.config._attn_implementation).removeprefix("petune_")
    padded = {} if backbone.pad_token_id is None else {"pad_token_id": backbone.pad_token_id}
    for name, value in {**padded, **changes}.items():
        setattr(config, name, value)
    # Where a checkpoint names one of several classes (DeiT's, with and without a teacher), ours is the plain one; and
    # where it names none, transformers would stumble.
    config.architectures = []
    quantizing.forget(config)  # the shell's class is built plain; its packed modules come from the backbone
    return config
