"""The shell: transformers' own model class of a task, around the shared backbone, with a head of its own.

The class is built on the meta device, so it costs nothing; the shared modules are put into it, and only the head is
given memory. Pooling, the last real token of a decoder, dropout: all of that stays transformers' code.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from petune.errors import BackboneError
from petune.methods.base import AdapterLayer
from petune.model.assembling import BARE, OneStack, graft, largest, on_meta
from petune.model.backbone import Backbone
from petune.model.families import FAMILIES
from petune.model.outputs import around, outputs_of
from petune.model.own_rows import OWN_ROWS, fresh_rows
from petune.model.supplying import Call, Captured, Supplied, SuppliedStack, supplying
from petune.model.twins import fill, remembered, twin, with_children
from petune.tasks._packing import STARTS


class Shell:
    """A task's transformers model on a shared backbone.

    `model` is a true `AutoModelFor...` instance whose backbone modules are the shared ones. `head` holds the modules
    that belong to the adapter: all parameters outside of the backbone, and parts inside of it that the checkpoint
    lacked (`overlays`, path -> module), which act at their place without touching the shared module. The `lm_head` of
    a language model's checkpoint is the backbone's (see `outputs`), so there the head is empty; so it is where the
    class is `AutoModel`, whose pooler nobody reads.
    """

    def __init__(
        self, backbone: Backbone, auto_class: str, config: dict[str, Any], *, private: bool = False, rows: int = 0
    ) -> None:
        """Builds the shell; the head's weights are drawn from torch's global generator.

        Args:
            auto_class: such as `AutoModelForSequenceClassification`; `AutoModel`: no head.
            config: what the task changes in the configuration.
            private: the backbone is this shell's alone, so head parts inside of it go straight to their place.
            rows: of its own, beside those of the backbone's pieces (`Task.own_rows`).

        Raises:
            BackboneError: transformers has no such class for this architecture; or it can have no rows of its own.
        """
        self.backbone = backbone
        self.model = on_meta(backbone, auto_class, config)
        self.takes = frozenset(inspect.signature(self.model.forward).parameters)
        self.bare = auto_class == BARE
        """Whether the task has no head at all: it answers from the backbone's last hidden states."""
        own = self.model.base_model
        missing = {name for name, _ in own.named_parameters() if name in backbone.missing and not self.bare}
        parts = dict(largest(own, missing))
        self.outputs = outputs_of(backbone, self.model)
        rim = around(self.model, backbone.model)
        self.outside = {name: child for name, child in rim.items() if name not in self.outputs.modules}
        self._materialise([*self.outside.values(), *parts.values()])
        graft(own, backbone.model)
        if own is not self.model or self.bare:  # whose attention an adapter may replace
            own.config = backbone.model.config
        self._surround(private)
        if private:
            for path, part in parts.items():
                own.set_submodule(path, part)
        self.overlays = {} if private else {path: Overlay(part) for path, part in parts.items()}
        if rows:
            _refuse_rows(private)
            self.overlays[OWN_ROWS] = Overlay(fresh_rows(backbone.model, backbone.model_type, rows), sees_output=True)

    @classmethod
    def blank(cls, backbone: Backbone, auto_class: str, config: dict[str, Any], rows: int = 0) -> Shell:
        """A shell whose head is to be filled with saved weights, from one of its shape that was built before.

        Raises:
            BackboneError: as the constructor.
        """
        labels = {name: config[name] for name in ("id2label", "label2id") if name in config}
        shape = {name: value for name, value in config.items() if name not in labels}
        key = (id(backbone.model), auto_class, repr(sorted(shape.items())), rows, str(backbone.device), backbone.dtype)
        like = remembered(backbone.built, key, lambda: cls(backbone, auto_class, shape, rows=rows))
        made = copy.copy(like)
        made.__dict__.pop("_without_backbone", None)
        made.outside = {name: twin(part) for name, part in like.outside.items()}
        made.model = with_children(like.model, made.outside)
        if not like.bare:
            made.model.config = copy.copy(like.model.config)
        for name, value in labels.items():
            setattr(made.model.config, name, value)
        made.overlays = {path: twin(overlay) for path, overlay in like.overlays.items()}
        return made

    def fill(self, head: Mapping[str, Tensor]) -> None:
        """Makes saved tensors, by their name in the shell, the head's weights."""
        for path, part in self._head_parts().items():
            names = [name for name, _ in part.named_parameters()]
            fill(part, {name: head[f"{path}.{name}"] for name in names})

    @functools.cached_property
    def stack(self) -> OneStack | None:
        """What stands for the base model of a shell that holds the encoder of an encoder-decoder, and nothing around it
        (Whisper's classifier); None: a usual one."""
        own, shared = self.model.base_model, self.backbone.model
        alone = own is self.model and "encoder" in own._modules and not shared._modules.keys() <= own._modules.keys()
        return OneStack(own._modules["encoder"], shared.config) if alone else None

    @property
    def base(self) -> nn.Module:
        """The shell's own base model object, whose children are the shared ones; T5's language model has no such
        object, only the children, so there it is the backbone's."""
        if self.stack is not None:
            return self.stack
        own = self.model.base_model
        return self.backbone.model if own is self.model else own

    @property
    def prefix(self) -> str:
        """What stands before the backbone's names in the shell, such as `bert`; empty for T5's language model."""
        return "" if self.model.base_model is self.model else self.model.base_model_prefix

    def _surround(self, private: bool) -> None:
        """Puts in what the backbone holds around its base model; in a private copy that learns like a head."""
        found = self.outputs
        for name, child in found.modules.items():
            self.model._modules[name] = child
        self.model._buffers.update(found.buffers)
        if found.generation is not None:
            self.model.generation_config = copy.deepcopy(found.generation)
        if private:
            learnt = {name.partition(".")[0] for name in found.untied}
            self.outside = {**self.outside, **{name: found.modules[name] for name in sorted(learnt)}}

    def _materialise(self, parts: list[nn.Module]) -> None:
        """Gives the head memory and first weights. The rest is on meta still, where initialising would do nothing."""
        for part in parts:
            part.to_empty(device=self.backbone.device)
        for name, buffer in self.model._buffers.items():
            if buffer is not None and buffer.is_meta:  # BART's bias on its logits
                self.model._buffers[name] = torch.zeros_like(buffer, device=self.backbone.device)
        own = {module for part in parts for module in part.modules()}
        for module in self.model.modules():
            if not own.isdisjoint(module.modules()):  # a module above a part may be the one that knows its spread
                self.model._init_weights(module)
        for part in parts:
            # A head learns in float32 even on a half-precision backbone; what enters it is cast.
            part.to(torch.float64 if self.backbone.dtype == torch.float64 else torch.float32)
            part.register_forward_pre_hook(_cast)

    def head(self) -> dict[str, nn.Parameter]:
        """The head's parameters by their name in the shell, such as `classifier.weight` or `bert.pooler.dense.bias`."""
        parts = self._head_parts().items()
        return {f"{name}.{inner}": p for name, part in parts for inner, p in part.named_parameters()}

    def _head_parts(self) -> dict[str, nn.Module]:
        """Every module of the head by its name in the shell."""
        dotted = f"{self.prefix}." if self.prefix else ""
        return {**self.outside, **{dotted + path: overlay.part for path, overlay in self.overlays.items()}}

    def head_module(self) -> nn.ModuleList:
        """The head's modules, for whoever trains or moves them."""
        return nn.ModuleList([*self.outside.values(), *self.overlays.values()])

    def inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What of a batch the shell's forward takes by name; a key-value cache, which no head needs, is turned off.

        A sequence-to-sequence language model that is given no `decoder_input_ids` reads its targets, shifted:
        `decoder_labels` where there are any, else its own input (as transformers' classifiers do).
        """
        taken = {name: value for name, value in given.items() if name in self.takes}
        if STARTS in given:
            taken["position_ids"] = self._with_borders(given[STARTS])
        reads = self.model.main_input_name
        if isinstance(taken.get(reads), Tensor) and taken[reads].is_floating_point():  # what a processor made
            taken[reads] = taken[reads].to(self.backbone.dtype)
        shifted = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        targets = given.get("decoder_labels", given.get("input_ids"))
        if shifted is not None and targets is not None and "decoder_input_ids" not in taken:
            taken["decoder_input_ids"] = shifted(labels=targets)
        return {"use_cache": False, **taken} if "use_cache" in self.takes else taken

    def _with_borders(self, starts: Tensor) -> Tensor:
        """Positions of packed texts, (B, T); a piece of padding is a text of its own."""
        family = FAMILIES.get(self.backbone.model_type)
        if family is None or not family.borders:
            raise BackboneError(
                f"The backbone {self.backbone.model_type!r} is not known to keep the texts of a packed row apart.",
                expected=f"Those that do are {', '.join(name for name in FAMILIES if FAMILIES[name].borders)}.",
                fix="Use packing='mixed', where texts of a block see each other, or packing=False.",
            )
        return starts.clamp(min=0)

    @functools.cached_property
    def _without_backbone(self) -> nn.Module:
        if self.bare:
            return Supplied(self.base)
        if self.prefix or self.stack is not None:
            return with_children(self.model, {self.prefix or "encoder": Supplied(self.base)})
        return with_children(self.model, {name: SuppliedStack(self.base) for name in ("encoder", "decoder")})

    def supplied(self) -> nn.Module:
        """The same shell with its backbone replaced by one that hands back an output made elsewhere.

        Inside `supplying(output)` it computes the head only; inside `supplying(None)` it raises `Captured`.
        """
        return self._without_backbone

    @functools.cached_property
    def head_shape(self) -> tuple[Any, ...] | None:
        """Equal for shells of one class whose heads can share a pass (`petune.model.heads`); None: it cannot."""
        parts = [module for part in self.outside.values() for module in part.modules()]
        maps = [module for module in parts if next(module.parameters(recurse=False), None) is not None]
        if not maps or any(type(module) not in (nn.Linear, nn.LayerNorm) for module in maps):
            return None
        return tuple((name, tuple(p.shape), p.dtype) for name, p in self.head().items())

    def call(self, given: Mapping[str, Any]) -> Call:
        """The arguments with which the shell calls its backbone on this batch."""
        if not self.prefix and self.stack is None:  # T5's language model calls no base model, but takes what one takes
            return Call((), self.inputs(given))
        try:
            with supplying(None):
                self.supplied()(**self.inputs(given))
        except Captured as captured:
            return captured.call
        raise AssertionError(f"{type(self.model).__name__} did not call its backbone")


class Overlay(AdapterLayer):
    """A head part inside the backbone, applied in place of the shared module's output.

    Args:
        sees_output: the part is given that output too, of which it replaces some.
    """

    def __init__(self, part: nn.Module, *, sees_output: bool = False) -> None:
        super().__init__()
        self.part, self.sees_output = part, sees_output

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x what entered the shared module, y what left it -> what leaves the adapter's own part."""
        own: Tensor = self.part(x, y) if self.sees_output else self.part(x)
        return own

    def hidden(self, x: Tensor) -> Tensor:
        """What enters the shared module in place of x, where the part stands for some of it."""
        kept: Tensor = self.part.hidden(x)  # type: ignore[operator]
        return kept


def _refuse_rows(private: bool) -> None:
    if private:
        raise BackboneError(
            "Full fine-tuning cannot be used for a task with pieces of its own.",
            expected="It writes a plain transformers model, whose table of pieces has no room for them.",
            fix="Use 'lora', 'adalora', 'bottleneck', 'prefix' or 'head', whose file holds them.",
        )


def _cast(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What enters a head part takes the type of its weights."""
    dtype = next(module.parameters()).dtype
    return tuple(a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
