"""How much memory this process may still take: what the machine has, and what its control groups allow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_GROUPS = Path("/sys/fs/cgroup")
_MINE = Path("/proc/self/cgroup")
_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""The limit and what is used, in the second and in the first version of control groups."""


def free_bytes(groups: Path = _GROUPS, mine: Path = _MINE) -> int:
    """Bytes of host memory that are free for this process.

    Args:
        groups: where the control groups are mounted; a container's limit is one of them.
        mine: the file that names those of this process.

    Examples:
        >>> free_bytes() > 0
        True
    """
    return max(0, min([int(psutil.virtual_memory().available), *_left(groups, mine)]))


def _left(groups: Path, mine: Path) -> Iterator[int]:
    """What is left of each limit that is set, from the process's own group upwards."""
    for folder in _folders(groups, mine):
        for limit, used in _FILES:
            most, taken = _number(folder / limit), _number(folder / used)
            if most is not None and taken is not None:
                yield most - taken + _reclaimable(folder)


def _folders(groups: Path, mine: Path) -> Iterator[Path]:
    """The groups that may limit memory: `0::/path` in the second version, `4:memory:/path` in the first."""
    yield from (groups, groups / "memory")
    lines = mine.read_text().splitlines() if mine.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers not in ("", "memory"):
            continue
        at = (groups / controllers if controllers else groups) / path.lstrip("/")
        while at not in (groups, groups / "memory") and at.is_relative_to(groups):
            yield at
            at = at.parent


def _reclaimable(folder: Path) -> int:
    """Cached files that nobody is using: they count as used, but go when memory is wanted."""
    stat = folder / "memory.stat"
    lines = dict(line.split(" ", 1) for line in stat.read_text().splitlines() if " " in line) if stat.exists() else {}
    return int(lines.get("total_inactive_file", lines.get("inactive_file", "0")))


def _number(path: Path) -> int | None:
    """None for a file that is not there, or says that there is no limit."""
    text = path.read_text().strip() if path.exists() else "max"
    return int(text) if text.isdigit() else None
