"""Taps: what listens at a site and hands the call's rows to their layers. The backbone's modules stay as they are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from petune.errors import BackboneError
from petune.methods.base import Site
from petune.model.routing import current


class Tap:
    """Forward hooks at one output site, for one bank. Hooks are bound methods, so a deep copy re-binds them."""

    def __init__(self, owner: object, site: Site) -> None:
        self.owner, self.path = owner, site.path
        self.apart = site.input is not site.output
        self.handles: list[RemovableHandle] = []
        try:
            if self.apart:
                self.handles.append(site.input.register_forward_pre_hook(self.note, with_kwargs=True))
            self.handles.append(site.output.register_forward_hook(self.act, with_kwargs=True))
        except (RuntimeError, AttributeError) as error:  # ScriptModules and the like take no such hooks
            self.detach()
            raise BackboneError(
                f"The module {site.path!r} ({type(site.output).__name__}) cannot be hooked: {error}.",
                expected="petune acts through forward hooks.",
                fix="Load the backbone as a plain, unscripted transformers model.",
            ) from error

    def note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps x for `act`, when input and output belong to two modules."""
        frame = current(self.owner)
        if frame is not None:
            frame.seen[self.path] = _first(args, kwargs)

    def act(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        """Replaces the module's output where an adapter of this call acts here."""
        frame = current(self.owner)
        if frame is None or not frame.active:
            return None
        x = frame.seen.pop(self.path) if self.apart else _first(args, kwargs)
        return frame.apply(self.path, x, output)

    def detach(self) -> None:
        """Takes the hooks away."""
        for handle in self.handles:
            handle.remove()


def strip(model: nn.Module) -> None:
    """Takes every tap off a copied model, whichever bank's it is: the copy is plain again."""
    for hooks, extra, key, _ in _hooked(model):
        del hooks[key]
        extra.pop(key, None)


def taps_of(model: nn.Module) -> list[Tap]:
    """Every tap on a model, whichever bank's it is."""
    return [tap for _, _, _, tap in _hooked(model)]


def _hooked(model: nn.Module) -> list[tuple[dict[int, Any], dict[int, bool], int, Tap]]:
    """The hooks that are taps: where they are kept, under which key, and the tap."""
    return [
        (hooks, extra, key, tap)
        for module in model.modules()
        for hooks, extra in (
            (module._forward_hooks, module._forward_hooks_with_kwargs),
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        )
        for key, hook in hooks.items()
        if isinstance(tap := getattr(hook, "__self__", None), Tap)
    ]


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The module's input, however it was passed."""
    found: Tensor = args[0] if args else next(iter(kwargs.values()))
    return found
