"""How large a run is. The defaults are the figures that are reported; tests make everything small."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Sizes of every figure.

    Args:
        encoder: folder of the encoder.
        decoder: folder of the decoder; empty: made from its package, when it is needed.
        repeats: rounds that count; each figure is a median over them.
        at_least: seconds of one turn of an arm, where one call is shorter.
        rows: of a routed batch, each with an adapter of its own.
        lengths: S, tokens per row.
        most: the largest number of adapters resident, in a batch, or loaded one after another.
        marks: how many are resident, or loaded already, where a figure is read off.
        stored: adapters on disk.
        resident: of them in memory at once.
        batches: routed batches of traffic per repeat.
        exponent: s of Zipf's law: the k-th adapter is asked for in proportion to k^-s.
        merged_width: d of the matrices of a merge.
        merged_blocks: blocks of the backbone whose adapters are merged.
        generating: rows of routed generation, each with an adapter of its own.
        new_tokens: that each row generates.
    """

    encoder: str
    decoder: str = ""
    repeats: int = 15
    at_least: float = 0.1
    rows: int = 32
    lengths: tuple[int, ...] = (1, 8, 32)
    most: int = 64
    marks: tuple[int, ...] = (8, 32, 64)
    stored: int = 1000
    resident: int = 64
    batches: int = 8
    exponent: float = 1.1
    merged_width: int = 768
    merged_blocks: int = 12
    generating: int = 16
    new_tokens: int = 32
