"""Where AdaLoRA has left its ranks: sites by blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from petune.model.adapter import Adapter

_INDEX = re.compile(r"^(.*?)\.(\d+)\.(.*)$")


@dataclass(frozen=True)
class RankMap:
    """Ranks of sites.

    Args:
        blocks: the columns: numbers of the blocks, with the stack's name where there are several stacks.
        rows: (the site's name inside its block, the rank in each block or None where it has no such site).
        largest: the largest rank.
        total: of all sites.
    """

    blocks: list[str]
    rows: list[tuple[str, list[int | None]]]
    largest: int
    total: int


def rank_map(adapter: Adapter) -> RankMap | None:
    """The ranks of an adapter whose sites differ in them; None for all others."""
    ranks = {path: len(named["lora_A"]) for path, named in adapter.tensors().items() if "lora_A" in named}
    if len(set(ranks.values())) < 2:
        return None
    cells: dict[str, dict[tuple[str, int], int]] = {}
    for path, rank in ranks.items():
        found = _INDEX.match(path)
        stack, block, name = (found[1], int(found[2]), found[3]) if found else ("", 0, path)
        cells.setdefault(name, {})[stack, block] = rank
    blocks = list(dict.fromkeys(at for row in cells.values() for at in row))
    stacks = list(dict.fromkeys(stack for stack, _ in blocks))
    blocks.sort(key=lambda at: (stacks.index(at[0]), at[1]))
    words = [f"{stack.split('.')[0]} {block}" if len(stacks) > 1 else str(block) for stack, block in blocks]
    rows = [(name, [row.get(at) for at in blocks]) for name, row in cells.items()]
    return RankMap(words, rows, max(ranks.values()), sum(ranks.values()))
