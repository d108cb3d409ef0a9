"""Whether an adapter makes sense by itself: finite numbers, shapes that go together, ranks as the manifest says."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from petune.errors import AdapterFileError
from petune.lookup import near
from petune.storage import layout
from petune.storage.stored import Stored

_LARGEST = 1e18
_USUAL = 4096
"""A size that costs little, whatever the tensors are."""
_LONG = 16_384
"""The same for the length of a prefix, which costs less than a rank."""
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def check(stored: Stored, source: str) -> list[str]:
    """Refuses what cannot be right; gives back what is merely odd.

    Raises:
        AdapterFileError: with the tensor or key, and the cause.
    """
    _none_empty(stored, source)
    for name, tensor in _named(stored):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise AdapterFileError(
                f"{source}: the tensor {name!r} has {bad} of {tensor.numel()} values that are NaN or infinite.",
                expected="Finite numbers.",
                fix="Take the last good checkpoint, or train again with a smaller learning rate.",
            )
        if stored.method != layout.PEFT and tensor.dtype not in _FLOATS and name not in stored.head:
            raise AdapterFileError(f"{source}: the tensor {name!r} is {tensor.dtype}.", expected="Floating point.")
        if tensor.is_floating_point() and tensor.numel() and float(tensor.abs().max()) > _LARGEST:
            raise AdapterFileError(
                f"{source}: the tensor {name!r} has values as large as {float(tensor.abs().max()):.1e}.",
                expected=f"At most {_LARGEST:.0e}: the product of two larger ones is infinite.",
                fix="Take the last good checkpoint, or train again with a smaller learning rate.",
            )
    checks = {"lora": _lora, "prefix": _prefix, "bottleneck": _bottleneck, layout.PEFT: _long_tail}
    if stored.method in checks:
        checks[stored.method](stored, source)
    if untrained(stored) or stored.manifest["untrained"]:
        return [f"{source}: this adapter is untrained: it changes nothing in the backbone."]
    return []


def untrained(stored: Stored) -> bool:
    """Whether every site's last map is zero, so that the adapter changes nothing."""
    last = {"lora": "lora_B", "bottleneck": "up.weight"}.get(stored.method)
    if last is None or not stored.layers:
        return False
    return all(not bool(tensors[last].any()) for tensors in stored.layers.values() if last in tensors)


def _named(stored: Stored) -> Iterator[tuple[str, Tensor]]:
    for path, tensors in stored.layers.items():
        yield from ((f"{path}.{short}".lstrip("."), tensor) for short, tensor in tensors.items())
    yield from stored.head.items()


def _none_empty(stored: Stored, source: str) -> None:
    """Only a LoRA site of rank 0 has tensors without elements; elsewhere a size would be claimed for nothing."""
    pruned = set()
    for path, tensors in stored.layers.items():
        a, b = (tuple(tensors[short].shape) if short in tensors else () for short in ("lora_A", "lora_B"))
        if len(a) == len(b) == 2 and a[0] == b[1] == 0 and a[1] and b[0]:
            pruned |= {f"{path}.lora_A", f"{path}.lora_B"}
    for name, tensor in _named(stored):
        if not tensor.numel() and name not in pruned:
            raise AdapterFileError(
                f"{source}: the tensor {name!r} of shape {tuple(tensor.shape)} has no elements.",
                expected="Only the factors of a LoRA site of rank 0 have none: (0, d_in) and (d_out, 0).",
            )


def _lora(stored: Stored, source: str) -> None:
    """The factors fit each other and the ranks of the manifest; the scale is a finite number."""
    knobs = stored.knobs
    rank, ranks, alpha = knobs.get("rank"), knobs.get("ranks") or {}, knobs.get("alpha")
    if not isinstance(ranks, dict) or type(rank) is not int:
        raise AdapterFileError(f"{source}: rank={rank!r}, ranks={ranks!r}.", expected="A whole number and a mapping.")
    if alpha is not None and (type(alpha) not in (int, float) or not math.isfinite(alpha) or alpha <= 0):
        raise AdapterFileError(f"{source}: alpha={alpha!r}.", expected="A positive number, or null.")
    factors = [t["lora_A"] for t in stored.layers.values() if "lora_A" in t]
    # A tensor without elements may claim any size.
    largest = max([len(a) for a in factors if a.ndim and a.numel()], default=0)
    if not 1 <= rank <= max(_USUAL, largest):  # sites without tensors would be built with it before they are missed
        raise AdapterFileError(
            f"{source}: rank={rank!r}.", expected=f"1 to {max(_USUAL, largest)}, as the tensors are."
        )
    stray = next((path for path in ranks if path not in stored.layers), None)
    if stray is not None:
        raise AdapterFileError(f"{source}: 'ranks' names the site {stray!r}.", fix=near(stray, stored.layers))
    for path, tensors in stored.layers.items():
        _only(path, tensors, ("lora_A", "lora_B"), source)
        a, b = tensors["lora_A"], tensors["lora_B"]
        wanted = ranks.get(path, rank)
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != wanted or b.shape[1] != wanted:
            raise AdapterFileError(
                f"{source}: at {path!r} lora_A is {tuple(a.shape)} and lora_B {tuple(b.shape)}.",
                expected=f"({wanted}, d_in) and (d_out, {wanted}), by the rank in the manifest.",
            )
        _no_wider(path, "rank", wanted, max(a.shape[1], b.shape[0]), source)


def _prefix(stored: Stored, source: str) -> None:
    """Keys and values have one shape per site, of the length in the manifest."""
    _some(stored, source)
    length = stored.knobs.get("length")
    for path, tensors in stored.layers.items():
        _only(path, tensors, ("keys", "values"), source)
        shapes = [tuple(tensors[short].shape) for short in ("keys", "values")]
        if shapes[0] != shapes[1] or len(shapes[0]) != 3 or shapes[0][0] != length:
            raise AdapterFileError(
                f"{source}: at {path!r} keys are {shapes[0]} and values {shapes[1]}.",
                expected=f"({length}, H, K) each, by the length in the manifest.",
            )
        _no_wider(path, "length", length, shapes[0][1] * shapes[0][2], source, _LONG)


def _bottleneck(stored: Stored, source: str) -> None:
    """Both maps have the width of the manifest inside."""
    _some(stored, source)
    width = stored.knobs.get("width")
    for path, tensors in stored.layers.items():
        _only(path, tensors, ("down.weight", "down.bias", "up.weight", "up.bias"), source)
        down, up = (tuple(tensors[short].shape) for short in ("down.weight", "up.weight"))
        if len(down) != 2 or len(up) != 2 or not down[0] == up[1] == width:
            raise AdapterFileError(
                f"{source}: at {path!r} down.weight is {down} and up.weight {up}.",
                expected=f"({width}, d_in) and (d_out, {width}), by the width in the manifest.",
            )
        _no_wider(path, "width", width, max(down[1], up[0]), source)


def _long_tail(stored: Stored, source: str) -> None:
    """No size in the configuration is beyond the tensors': peft would ask for that memory before it looks at them."""
    config = stored.knobs.get("config")
    if not isinstance(config, dict):
        raise AdapterFileError(f"{source}: 'config' is a {type(config).__name__}.", expected="peft's configuration.")
    largest = max([_USUAL, *(tensor.numel() for tensors in stored.layers.values() for tensor in tensors.values())])
    for field, value in config.items():
        sizes = value.values() if field.endswith("_pattern") and isinstance(value, dict) else (value,)
        counts = not any(word in field for word in ("seed", "key", "alpha", "step"))
        for size in sizes if counts else ():
            if isinstance(size, int | float) and not (math.isfinite(size) and abs(size) <= largest):
                raise AdapterFileError(
                    f"{source}: {field}={size!r}.", expected=f"At most {largest}, the size of the largest tensor."
                )


def _no_wider(path: str, knob: str, inner: Any, outer: int, source: str, usual: int = _USUAL) -> None:
    """A layer of this inner size is built for the backbone's own widths before shapes are compared.

    So narrow tensors, which cost a file nothing, must not ask for one of any size.
    """
    most = max(usual, 4 * outer)
    if type(inner) is not int or inner > most:
        raise AdapterFileError(f"{source}: {knob}={inner!r} at {path!r}.", expected=f"At most {most} for such tensors.")


def _some(stored: Stored, source: str) -> None:
    if not stored.layers:
        raise AdapterFileError(f"{source} holds no tensors of its method {stored.method!r}.")


def _only(path: str, tensors: Any, names: tuple[str, ...], source: str) -> None:
    if set(tensors) != set(names):
        raise AdapterFileError(
            f"{source}: the site {path!r} holds {', '.join(sorted(tensors)) or 'nothing'}.",
            expected=f"{' and '.join(names)}.",
        )
