"""The learner: one adapter in training, as a module that holds only what training changes.

Accelerate may wrap it (DDP, autocast): the backbone is no submodule of it, so it is neither synchronised nor saved.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from petune.errors import BackboneError
from petune.methods.base import AdapterLayer, Method
from petune.model.adapter import Adapter
from petune.model.bank import Bank
from petune.model.compiled_learning import compiled_learning
from petune.model.focusing import can_focus, focused
from petune.model.intercepting import checkpoint_contexts
from petune.model.modes import modes_kept
from petune.model.own_rows import OWN_ROWS
from petune.model.prompting import lengthened
from petune.model.routing import entered
from petune.model.trimming import trimming
from petune.model.trunk import States, Trunk, passing, trunk_of
from petune.model.unpadding import leaving_out, unpadded


class Learner(nn.Module):
    """Drives one resident adapter: `forward(**inputs)` gives its logits, `parameters()` are its own and its head's."""

    def __init__(self, bank: Bank, adapter: Adapter) -> None:
        super().__init__()
        self.body = adapter.body.module()
        self.head = adapter.shell.head_module()
        # Kept out of the module tree: what is not in it is not trained, moved twice or saved.
        self.__dict__["bank"], self.__dict__["adapter"] = bank, adapter
        self.__dict__["_train_base"] = lambda on: None
        self.trims = False
        """Whether its calls compute the last block at the first position only."""
        self.focuses = False
        """Whether it is to be given `at` in training."""

    @property
    def bank(self) -> Bank:
        """Where the adapter is resident."""
        return self.__dict__["bank"]  # type: ignore[no-any-return]

    @property
    def adapter(self) -> Adapter:
        """The adapter in training."""
        return self.__dict__["adapter"]  # type: ignore[no-any-return]

    @property
    def method(self) -> Method:
        """The recipe of the adapter in training."""
        return self.__dict__["adapter"].method  # type: ignore[no-any-return]

    @property
    def layers(self) -> dict[str, AdapterLayer]:
        """Site path -> layer."""
        return self.__dict__["adapter"].body.layers  # type: ignore[no-any-return]

    def weights(self) -> Iterator[Tensor]:
        """Every parameter that is in memory for this run: the backbone's, the adapter's and the head's."""
        yield from self.__dict__["adapter"].shell.backbone.model.parameters()
        yield from self.parameters()

    def forward(
        self,
        trunk_states: States | None = None,
        at: Tensor | None = None,
        host_mask: Tensor | None = None,
        **inputs: Any,
    ) -> Tensor:
        """The logits of the adapter's shell on this batch.

        Args:
            trunk_states: what the trunk makes of it, if that is known; the trunk must be listening then.
            at: (N,) places b * T + t, of a language model: their logits alone are made, (N, V).
            host_mask: the attention mask once more, on the host.
        """
        bank, adapter = self.__dict__["bank"], self.__dict__["adapter"]
        # A private copy has no resident; anything else must be one, or its layers would be passed over silently.
        frame = bank.frame(adapter.name) if adapter.method.residence != "private" else None
        longer = lengthened(frame, adapter.shell, inputs)
        given = inputs if longer is None else longer.inputs
        with (
            entered(frame),
            passing(self.trunk, trunk_states),
            leaving_out(self, given, host_mask if longer is None else None),
            trimming(self.trims),
        ):
            if at is not None:
                model = focused(adapter.shell.model, at if longer is None or longer.decodes else longer.moved(at))
                return model(**adapter.shell.inputs(given)).logits[0]  # type: ignore[no-any-return]
            output = adapter.shell.model(**adapter.shell.inputs(given))
            return adapter.task.logits(output if longer is None else longer.restored(output), inputs)

    @property
    def can_focus(self) -> bool:
        """Whether `forward` takes `at`."""
        return can_focus(self.adapter.shell.model)

    def compiled(self, **options: Any) -> AbstractContextManager[None]:
        """Inside, its own calls run compiled; around it is `fitting`, see `petune.model.compiled_learning`."""
        return compiled_learning(self.bank.taps, self.adapter, self.live_blocks(), **options)

    @functools.cached_property
    def trunk(self) -> Trunk | None:
        """The blocks below the lowest adapter, for a head alone all; None: there are none that can be told apart.

        Learners that share forwards share it as well, so it may be set to that of another.
        """
        if self.method.residence == "private":
            return None
        blocks, lowest = self._blocks(), self.lowest_block
        return trunk_of(blocks, len(blocks) if lowest is None else lowest, self.adapter.shell.backbone.model_type)

    def trunk_states(self, inputs: Mapping[str, Tensor]) -> States:
        """What the trunk, which must be listening, makes of a batch, (B, T, D) of each stack; nothing above it runs."""
        assert self.trunk is not None
        shell = self.adapter.shell
        with entered(None):
            return self.trunk.catch(lambda: shell.model(**shell.inputs(inputs)))

    def place(self, device: torch.device | str) -> None:
        """Moves backbone, adapter and head."""
        adapter = self.__dict__["adapter"]
        adapter.shell.backbone.model.to(device)
        adapter.shell.model.to(device)
        self.to(device)

    @contextmanager
    def fitting(
        self,
        *,
        backbone_dropout: bool = True,
        gradient_checkpointing: bool = False,
        padding_free: bool | Literal["auto"] = False,
    ) -> Iterator[None]:
        """Freezes the backbone and sets the modes of its blocks; every flag is as before when it ends.

        Blocks below the lowest adapter run in eval mode. Blocks at or above it use the backbone's own dropout, unless
        `backbone_dropout` is False.

        Args:
            padding_free: as `petune.model.unpadding.unpadded` takes it.

        Raises:
            BackboneError: gradient checkpointing where the architecture has none.
            ConfigError: `padding_free` True where it cannot be.
        """
        adapter: Adapter = self.__dict__["adapter"]
        base = adapter.shell.base
        mine = {id(p) for p in self.parameters()}
        # A shell may leave parts of the backbone out (a pooler for tags), or hold some around it (an lm_head); those
        # are frozen as well.
        shell = adapter.shell
        parts = (base, shell.model, shell.backbone.model)
        there = {id(p): p for part in parts for p in part.parameters()}
        frozen = [p for p in there.values() if id(p) not in mine and p.requires_grad]
        live = self.live_blocks()
        # With a head alone there is nothing that could be recomputed.
        undo = _checkpointing(base, live) if gradient_checkpointing and live else (lambda: None)
        try:
            for p in frozen:
                p.requires_grad_(False)
            for p in self.parameters():
                p.requires_grad_(p.is_floating_point())
            self.__dict__["_train_base"] = lambda on: _set_modes(base, live, on, backbone_dropout)
            with modes_kept(self, *adapter.modules()), unpadded(self, padding_free):
                self.mode(True)
                yield
        finally:
            undo()
            self.__dict__["_train_base"] = lambda on: None
            for p in frozen:
                p.requires_grad_(True)

    def mode(self, training: bool) -> None:
        """Train or eval mode of adapter, head and the adapted blocks, as `fitting` decided."""
        self.train(training)
        adapter: Adapter = self.__dict__["adapter"]
        # The head's dropout has no parameters, so it is no part of `head`; it follows the adapter all the same.
        base = adapter.shell.base
        shared = {id(module) for module in (base, *base.children())}
        for child in adapter.shell.model.children():
            if id(child) not in shared:
                child.train(training)
        # Last, because in full fine-tuning the backbone is a part of this module.
        self.__dict__["_train_base"](training)

    @functools.cached_property
    def lowest_block(self) -> int | None:
        """The index of the lowest adapted block, 0 where an adapter acts before the blocks; None: it acts nowhere."""
        inside = [f"{path}." for path, _ in self._blocks()]
        rows = [OWN_ROWS] if OWN_ROWS in self.adapter.shell.overlays else []
        acting = [f"{path}." for path in (*rows, *self.adapter.body.acts_at())]
        found = (next((i for i, block in enumerate(inside) if path.startswith(block)), 0) for path in acting)
        return min(found, default=None)

    def _blocks(self) -> list[tuple[str, nn.Module]]:
        """(path, block) of the backbone; all of it is one block where the architecture is not in the table."""
        shell = self.adapter.shell
        return shell.backbone.blocks(shell.base) or [("", shell.base)]

    def live_blocks(self) -> list[nn.Module]:
        """The blocks at or above the lowest adapter: those through which gradients flow."""
        if self.method.residence == "private":
            return [self.adapter.shell.base]
        return [] if self.lowest_block is None else [block for _, block in self._blocks()[self.lowest_block :]]

    def state(self) -> dict[str, Tensor]:
        """Clones of every parameter and buffer that training changes."""
        return {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Copies a state back, strictly."""
        self.load_state_dict(state, strict=True)


def _set_modes(base: nn.Module, live: list[nn.Module], training: bool, dropout: bool) -> None:
    """Everything in eval mode but the live blocks; without dropout only the blocks' own flag is set."""
    base.eval()
    for block in live if training else []:
        block.train()
        if not dropout:
            # Gradient checkpointing asks for the block's own flag; every module inside of it stays in eval mode.
            for module in block.modules():
                module.training = hasattr(module, "gradient_checkpointing")


def _checkpointing(base: nn.Module, live: list[nn.Module]) -> Any:
    """Turns gradient checkpointing on in the live blocks; returns what turns it off again.

    Set on the modules themselves: transformers' switch also makes the embeddings require gradients, which would drag
    the whole trunk into the backward pass.
    """
    modules = [m for block in live for m in block.modules() if hasattr(m, "gradient_checkpointing")]
    if not modules:
        raise BackboneError(
            f"{type(base).__name__} does not support gradient checkpointing, or no block of it is trained.",
            fix="Set gradient_checkpointing=False.",
        )
    before = [(m, m.gradient_checkpointing, m.__dict__.get("_gradient_checkpointing_func")) for m in modules]
    function = functools.partial(checkpoint, use_reentrant=False, context_fn=checkpoint_contexts)
    for module in modules:
        module.gradient_checkpointing, module._gradient_checkpointing_func = True, function  # type: ignore[assignment]

    def undo() -> None:
        for module, was, old in before:
            module.gradient_checkpointing = was
            if old is None:
                module.__dict__.pop("_gradient_checkpointing_func", None)
            else:
                module._gradient_checkpointing_func = old

    return undo
