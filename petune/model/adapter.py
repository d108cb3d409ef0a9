"""An adapter: method + task + layers + head + labels under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from petune.errors import AdapterFileError
from petune.lookup import near
from petune.methods.base import AdapterLayer, Method
from petune.model.attention import restore_setting
from petune.model.backbone import Backbone
from petune.model.bodies import Body, body_for
from petune.model.shell import Shell
from petune.model.taps import strip, taps_of
from petune.tasks.base import Task


@dataclass(frozen=True, eq=False)
class Adapter:
    """The one thing that is trained, saved, swapped, routed and merged.

    Args:
        name: what calls refer to it by.
        method: the recipe its layers follow.
        task: learnt, so it knows its columns and labels.
        shell: the transformers model of the task, with the head.
        body: what acts inside the backbone.
        facts: what a manifest tells of its making: seed, metrics, `trained_as`, data.
    """

    name: str
    method: Method
    task: Task
    shell: Shell
    body: Body
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, backbone: Backbone, name: str, method: Method, task: Task, **facts: Any) -> Adapter:
        """A fresh adapter; its first weights come from torch's global generator.

        Raises:
            BackboneError: the backbone has no such site, or transformers no such task for it.
        """
        private = method.residence == "private"
        home = copied(backbone) if private else backbone
        shell = Shell(home, task.auto_class, task.model_config(), private=private, rows=task.own_rows())
        made = cls(name, method, task, shell, body_for(method, shell), facts)
        for module in made.own_modules():
            module.eval()
        return made

    @classmethod
    def filled(
        cls,
        backbone: Backbone,
        name: str,
        method: Method,
        task: Task,
        layers: Mapping[str, Mapping[str, Tensor]],
        head: Mapping[str, Tensor],
        **facts: Any,
    ) -> Adapter:
        """An adapter of saved tensors, which it takes over; they are checked first. No random number is drawn.

        Raises:
            AdapterFileError: missing, unexpected or misshapen tensors, each named.
            BackboneError: as `make`.
        """
        if method.residence != "shared":
            with torch.random.fork_rng(devices=[]):
                made = cls.make(backbone, name, method, task, **facts)
            try:
                made.load(layers, head)
            except BaseException:
                made.body.detach()
                raise
            return made
        shell = Shell.blank(backbone, task.auto_class, task.model_config(), task.own_rows())
        made = cls(name, method, task, shell, body_for(method, shell, blank=True), facts)
        for module in made.own_modules():
            module.eval()
        made._check(layers, head)
        made.body.fill(layers)
        made.shell.fill(head)
        return made

    def own_modules(self) -> list[nn.Module]:
        """The modules that are this adapter's alone."""
        return [*self.body.layers.values(), *self.shell.overlays.values(), *self.shell.outside.values()]

    def modules(self) -> list[nn.Module]:
        """Every module that takes part in its forward, the shared backbone's included."""
        return [self.shell.model, self.shell.backbone.model, *self.own_modules()]

    def at(self, path: str) -> AdapterLayer | None:
        """What acts at a path of the backbone: a layer, an overlaying head part, or nothing."""
        return self.body.layers.get(path) or self.shell.overlays.get(path)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Site path -> short name -> tensor, as saved."""
        return {path: {k: v.detach() for k, v in named.items()} for path, named in self.body.tensors().items()}

    def head(self) -> dict[str, Tensor]:
        """Name in the shell -> tensor."""
        return {name: parameter.detach() for name, parameter in self.shell.head().items()}

    def load(self, layers: Mapping[str, Mapping[str, Tensor]], head: Mapping[str, Tensor]) -> None:
        """Copies saved tensors in, after all of them were checked.

        Raises:
            AdapterFileError: missing, unexpected or misshapen tensors, each named.
        """
        self._check(layers, head)
        self.body.load(layers)
        with torch.no_grad():
            for name, parameter in self.shell.head().items():
                parameter.copy_(head[name])

    def _check(self, layers: Mapping[str, Mapping[str, Tensor]], head: Mapping[str, Tensor]) -> None:
        """Raises AdapterFileError unless the tensors fit one to one."""
        flat = {f"{path}:{short}": t for path, named in self.tensors().items() for short, t in named.items()}
        given = {f"{path}:{short}": t for path, named in layers.items() for short, t in named.items()}
        for have, want, what in ((given, flat, "layer"), (head, self.shell.head(), "head")):
            _compare(have, want, what)

    def settled(self) -> Adapter:
        """The adapter to keep once training is over: AdaLoRA becomes the LoRA that it is."""
        method, body = self.body.folded(self.method)
        return Adapter(self.name, method, self.task, self.shell, body, self.facts)

    def renamed(self, name: str) -> Adapter:
        """The same adapter under another name."""
        return Adapter(name, self.method, self.task, self.shell, self.body, self.facts)


def copied(backbone: Backbone) -> Backbone:
    """A backbone with weights of its own, on which no adapter acts. The original may serve calls meanwhile."""
    taps = {id(tap): tap for tap in taps_of(backbone.model)}  # not copied: they would bring their banks along
    made = backbone.copied(dict(taps))
    strip(made.model)
    restore_setting(made.model)
    return made


def _compare(have: Mapping[str, Tensor], want: Mapping[str, Tensor], what: str) -> None:
    """Refuses tensors that do not fit one to one."""
    missing, unexpected = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    if missing:
        raise AdapterFileError(
            f"The {what} tensor {missing[0]!r} is missing ({len(missing)} in all).",
            expected="Every tensor of the adapter must be there.",
            fix="Was it trained on another architecture? " + (near(missing[0], unexpected) if unexpected else ""),
        )
    if unexpected:
        raise AdapterFileError(
            f"The {what} tensor {unexpected[0]!r} fits nowhere here ({len(unexpected)} in all).",
            expected="Every tensor must belong to a site or head part of this backbone.",
            fix=near(unexpected[0], want),
        )
    for name, tensor in want.items():
        if tensor.shape != have[name].shape:
            raise AdapterFileError(
                f"The {what} tensor {name!r} has shape {tuple(have[name].shape)}.",
                expected=f"This backbone needs {tuple(tensor.shape)}.",
                fix="Use the backbone that the adapter was trained on.",
            )
        if tensor.is_floating_point() != have[name].is_floating_point():
            raise AdapterFileError(
                f"The {what} tensor {name!r} holds {have[name].dtype}.",
                expected=f"{tensor.dtype}, or another kind of the same sort.",
                fix="Save the adapter again, as it was trained.",
            )
