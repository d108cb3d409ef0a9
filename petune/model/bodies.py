"""What an adapter is inside the backbone: layers at sites, replaced modules, or a private copy.

A method declares its `residence`; nothing else tells the three apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from petune.errors import AdapterError, MergeError
from petune.methods.base import AdapterLayer, Method, Site
from petune.model import quantizing
from petune.model.gate import changing
from petune.model.prompting import refuse_prompt
from petune.model.shell import Shell
from petune.model.twins import fill, remembered, twin

REPLACED = "_petune_replaced"
"""Noted on the backbone while another library's modules are in it, so that every tuner on it knows."""

Undo = Callable[[], None]
"""Puts back what a merge changed. A bound method, so that the undo of a deep copy works on the copy."""


class KeptBits:
    """The bits of parameters from before a merge, and the modules that it replaced."""

    def __init__(self) -> None:
        self._kept: list[tuple[nn.Parameter, Tensor]] = []
        self._replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def keep(self, parameter: nn.Parameter) -> None:
        """Notes what a parameter holds now."""
        self._kept.append((parameter, parameter.detach().clone()))

    def replace(self, root: nn.Module, path: str, module: nn.Module) -> None:
        """Puts a module in the place of another one, and notes that one."""
        above, _, name = path.rpartition(".")
        parent = root.get_submodule(above)
        self._replaced.append((parent, name, getattr(parent, name)))
        parent._modules[name] = module

    @torch.no_grad()
    def restore(self) -> None:
        """Writes the noted bits back, and puts the noted modules back."""
        for parameter, bits in reversed(self._kept):
            parameter.copy_(bits)
        for parent, name, module in reversed(self._replaced):
            parent._modules[name] = module


class Body(ABC):
    """The part of an adapter that acts inside the backbone."""

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.layers: dict[str, AdapterLayer] = {}

    @abstractmethod
    def module(self) -> nn.Module:
        """Holds the parameters that training changes (the head's are elsewhere)."""

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Site path -> short name -> tensor, as saved."""
        return {path: layer.tensors() for path, layer in self.layers.items()}

    def acts_at(self) -> tuple[str, ...]:
        """The paths in the backbone where it acts."""
        return tuple(site.path for site in self.sites)

    def fill(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Makes saved tensors the weights of a blank body; names and shapes were checked."""
        self.load(tensors)

    @abstractmethod
    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Copies saved tensors in; names and shapes were checked."""

    def folded(self, method: Method) -> tuple[Method, Body]:
        """Method and body to keep once training is over."""
        return method, self

    def refuse_merge(self) -> None:
        """Raises MergeError where there is no weight change to merge."""

    @abstractmethod
    def merge(self, base: nn.Module) -> Undo:
        """Writes the adapter into the backbone; the result puts the original bits back.

        Args:
            base: the base model of the adapter's shell, or of a shell on a copy of the backbone.
        """

    def detach(self) -> None:
        """Takes out whatever was put into the backbone's modules."""


class Layered(Body):
    """Layers at sites; the backbone's modules stay untouched, hooks call the layers."""

    def __init__(self, method: Method, sites: list[Site], layers: dict[str, AdapterLayer]) -> None:
        super().__init__()
        self.method, self.sites, self.layers = method, sites, layers

    def module(self) -> nn.Module:
        return nn.ModuleList(self.layers.values())

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        for path, layer in self.layers.items():
            for name, tensor in layer.state_dict(keep_vars=True).items():
                tensor.copy_(tensors[path][name])

    def fill(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        for path, layer in self.layers.items():
            fill(layer, tensors[path])

    def folded(self, method: Method) -> tuple[Method, Body]:
        kept = method.folded(self.layers)
        return kept, Layered(kept, self.sites, {path: layer.folded() for path, layer in self.layers.items()})

    def refuse_merge(self) -> None:
        if not self.method.mergeable:
            raise MergeError(
                f"The method {type(self.method).__name__} has no weight change, so it cannot be merged.",
                expected="LoRA, AdaLoRA and head can be merged.",
                fix="Serve this adapter unmerged, with AdaptedModel.",
            )

    @torch.no_grad()
    def merge(self, base: nn.Module) -> Undo:
        kept = KeptBits()
        try:
            quantizing.dequantize(base, kept)  # a packed weight has no room for a change
            for site in self.sites:
                here = site._replace(output=base.get_submodule(site.path))
                weight: nn.Parameter = here.output.weight  # type: ignore[assignment]
                if here.output is site.output:
                    kept.keep(weight)
                change = self.layers[site.path].delta().to(weight.device)
                # The sum is made in float32 (or wider) and rounded once.
                wide = weight.double() if weight.dtype == torch.float64 else weight.float()
                weight.copy_((wide + (change.T if here.transposed else change)).to(weight.dtype))
        except BaseException:
            kept.restore()
            raise
        return kept.restore


class Injected(Body):
    """The long tail: another library replaced modules of the backbone. It must be alone there."""

    def __init__(self, injected: Any, backbone: nn.Module) -> None:
        super().__init__()
        self.injected, self.backbone = injected, backbone
        setattr(backbone, REPLACED, True)

    def module(self) -> nn.Module:
        holder = nn.Module()
        for index, parameter in enumerate(self.injected.parameters_by_name().values()):
            holder.register_parameter(f"p{index}", parameter)
        return holder

    def acts_at(self) -> tuple[str, ...]:
        return tuple(self.injected.sites)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        return {"": dict(self.injected.tensors())}

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.injected.load(dict(tensors[""]))

    def folded(self, method: Method) -> tuple[Method, Body]:
        # Patterns and defaults have become names: what is saved says exactly which modules were replaced.
        return self.injected.method, self

    def merge(self, base: nn.Module) -> Undo:
        self.injected.merge()
        return self.injected.unmerge  # type: ignore[no-any-return]

    def detach(self) -> None:
        self.injected.remove()
        setattr(self.backbone, REPLACED, False)


class Private(Body):
    """Full fine-tuning: the whole private backbone is what learns."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def module(self) -> nn.Module:
        return self.base

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        return {"": dict(self.base.state_dict())}

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.base.load_state_dict(dict(tensors[""]))

    def refuse_merge(self) -> None:
        raise MergeError(
            "A full fine-tuning has nothing to merge.",
            expected="Its weights are a model of their own already.",
            fix="Use save(folder): it writes a plain transformers folder.",
        )

    def merge(self, base: nn.Module) -> Undo:
        self.refuse_merge()
        raise AssertionError("refuse_merge did not refuse")


def refuse_private(name: str, method: Method | type[Method]) -> None:
    """Raises AdapterError for a full fine-tuning, which can be no resident of a shared backbone."""
    if method.residence == "private":
        raise AdapterError(
            f"{name!r} is a full fine-tuning: a whole model, no resident of a shared backbone.",
            fix="Save it, if it is in memory only, and load its folder with Tuner.load or with transformers.",
        )


def refuse_replaced(backbone: nn.Module) -> None:
    """Raises AdapterError while another library's modules are in a backbone, whoever put them there."""
    if getattr(backbone, REPLACED, False):
        raise AdapterError(
            "A method from peft has replaced modules of this backbone.",
            expected="Nothing else can act on it meanwhile.",
            fix="Give this adapter a backbone of its own, or remove the other one first.",
        )


def body_for(method: Method, shell: Shell, *, blank: bool = False) -> Body:
    """The fresh body of a method inside a shell.

    Args:
        blank: the layers are to be filled with saved weights.
    """
    if shell.backbone.quantized:
        shell.backbone.check(method)
    refuse_prompt(method, shell)
    if method.residence == "private":
        return Private(shell.base)
    refuse_replaced(shell.backbone.model)
    if method.residence == "sole":
        heads = [path for path, _ in shell.base.named_modules() if _in_head(path, shell)]
        with changing(shell.backbone.model):
            return Injected(method.inject(shell.base, exclude=heads), shell.backbone.model)  # type: ignore[attr-defined]
    if blank:
        key = (type(shell.base), id(shell.backbone.model), repr(method), str(shell.backbone.device))
        like = remembered(shell.backbone.built, key, lambda: _layered(method, shell))
        # Only layers that say what they consist of are known to have nothing else of their own.
        layers = {
            site.path: twin(layer) if (layer := like.layers[site.path]).inner else method.layer(site)
            for site in like.sites
        }
        return Layered(method, like.sites, layers)
    return _layered(method, shell)


def _layered(method: Method, shell: Shell) -> Layered:
    """Fresh layers at the sites of a method."""
    backbone = shell.backbone
    sites = [site for site in backbone.sites(shell.base, method) if not _in_head(site.path, shell)]
    if not sites and not shell.head():
        raise AdapterError(
            f"The method {type(method).__name__} trains the head alone, and this task has none.",
            expected="The lm_head of a pretrained language model belongs to the backbone, which stays as it is.",
            fix="Use method='lora', 'adalora', 'bottleneck', 'prefix' or 'full'.",
        )
    layers = {site.path: method.layer(site).to(backbone.device) for site in sites}
    return Layered(method, sites, layers)


def _in_head(path: str, shell: Shell) -> bool:
    """Whether a site lies in a head part, which is trained itself and never adapted."""
    return any(path == part or path.startswith(part + ".") for part in shell.overlays)
