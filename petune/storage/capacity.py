"""How much a store keeps resident: a number of adapters, or bytes."""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import Tensor

from petune.errors import ConfigError
from petune.model.adapter import Adapter
from petune.model.stacks import bucket_of, width_of

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?i?B)\s*", re.IGNORECASE)


class Capacity(NamedTuple):
    """A number of adapters or a number of bytes; the other one is None."""

    adapters: int | None
    bytes: int | None

    @classmethod
    def of(cls, resident: int | str) -> Capacity:
        """A capacity as people write it.

        Args:
            resident: a number of adapters, or a text with a unit (B, KB, MB, GB, KiB, MiB, GiB).

        Raises:
            ConfigError: neither, or less than one.

        Examples:
            >>> Capacity.of(64)
            Capacity(adapters=64, bytes=None)
            >>> Capacity.of("1.5 MB")
            Capacity(adapters=None, bytes=1500000)
        """
        if isinstance(resident, int) and not isinstance(resident, bool) and resident >= 1:
            return cls(resident, None)
        said = _SIZE.fullmatch(resident) if isinstance(resident, str) else None
        size = int(float(said[1]) * _UNITS[said[2].upper()]) if said else 0
        if size < 1:
            raise ConfigError(
                f"resident={resident!r} is no capacity.",
                expected="A number of adapters, such as 64, or bytes with their unit, such as '200MB'.",
            )
        return cls(None, size)

    def holds(self, adapters: int, size: int) -> bool:
        """Whether so many adapters of so many bytes in all are within it."""
        return adapters <= self.adapters if self.adapters is not None else size <= (self.bytes or 0)

    def __str__(self) -> str:
        if self.adapters is None:
            return f"{self.bytes:,} bytes"
        return "1 adapter" if self.adapters == 1 else f"{self.adapters} adapters"


def bytes_of(adapter: Adapter) -> int:
    """What an adapter takes while it is resident: its slots, padded to their bucket, and its head."""
    size = sum(map(_bytes, adapter.shell.head().values()))
    for layer in adapter.body.layers.values():
        width = width_of(layer) if layer.inner else 0
        for name, parameter in layer.named_parameters():
            padded = width and layer.inner.get(name) is not None
            size += _bytes(parameter) // width * bucket_of(width) if padded else _bytes(parameter)
    return size


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
