"""Two parts out of one table, what the parts share, and the fingerprint of rows."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import heapq
import json
import math
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from petune.data.records import plain
from petune.errors import DataError
from petune.knobs import check
from petune.lookup import unknown
from petune.tasks.base import Table


def hold_out(table: Table, fraction: float, seed: int, strata: Sequence[Collection[str]] | None) -> tuple[Table, Table]:
    """Cuts a table into (training rows, held-out rows), each in the order of the table.

    With strata the shares of the classes are kept: a class of two or more rows is in both parts as long as the
    held-out part has that many rows. A row of several labels counts for the rarest of them. Every label is in a
    training row, so the only row of a label always trains. Same seed, same parts, whatever the state of any global
    generator.

    Args:
        fraction: share of the rows to hold out, between 0 and 1; their number is rounded.
        seed: picks the rows.
        strata: the labels of each row; None picks without regard to labels.

    Raises:
        ConfigError: a fraction that is not between 0 and 1.
        DataError: fewer than two rows, strata of another length, or a part that would be empty.

    Examples:
        >>> rows = [{"label": "ab"[i % 2]} for i in range(10)]
        >>> train, held = hold_out(Table(rows, ("label",)), 0.2, 0, [{row["label"]} for row in rows])
        >>> len(train), sorted(row["label"] for row in held.rows)
        (8, ['a', 'b'])
    """
    check(isinstance(fraction, float) and 0 < fraction < 1, "eval_data", fraction, "rows, or a share between 0 and 1")
    if len(table) < 2:
        raise DataError(
            f"There are too few rows to split: {len(table)} in {table.source}.", expected="At least 2 are needed."
        )
    if strata is not None and len(strata) != len(table):
        raise DataError(f"{len(strata)} strata were given for {len(table)} rows.", expected="One per row is needed.")
    keys = _rarest(strata) if strata is not None else [""] * len(table)
    # A generator of our own, seeded by text: its stream is the same in every Python version.
    chosen = _choose(
        keys, _rounded(fraction * len(table)), random.Random(f"hold out {seed}"), keep_all=strata is not None
    )
    chosen -= _only_there(strata or [], chosen)
    if not 0 < len(chosen) < len(table):
        raise _empty_side(table, fraction, chosen)
    rest = [index for index in range(len(table)) if index not in chosen]
    return table.take(rest), table.take(sorted(chosen))


def _rounded(number: float) -> int:
    """Halves go up, so that half of three rows is two on every platform (`round` would alternate)."""
    return math.floor(number + 0.5)


def _rarest(strata: Sequence[Collection[str]]) -> list[str]:
    """The rarest label of each row; the empty string for a row without labels."""
    rows = Counter(label for labels in strata for label in set(labels))
    return [min(labels, key=lambda label: (rows[label], label), default="") for labels in strata]


def _only_there(strata: Sequence[Collection[str]], chosen: set[int]) -> set[int]:
    """Rows of `chosen` without which some label would have no row outside."""
    outside = {label for index, labels in enumerate(strata) if index not in chosen for label in labels}
    needed = set()
    for index in sorted(chosen) if strata else ():
        if not outside.issuperset(strata[index]):
            needed.add(index)
            outside.update(strata[index])
    return needed


def _choose(keys: list[str], size: int, rng: random.Random, *, keep_all: bool) -> set[int]:
    """Indices of about `size` rows; with `keep_all` each class keeps a row outside."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)
    classes = sorted(members)
    rng.shuffle(classes)  # ties between classes are broken by the seed, not by the alphabet
    most = {key: len(members[key]) - keep_all for key in classes}
    quotas = _quotas({key: len(members[key]) * size / len(keys) for key in classes}, most, size)
    return {index for key in classes for index in rng.sample(members[key], quotas[key])}


def _quotas(shares: dict[str, float], most: dict[str, int], size: int) -> dict[str, int]:
    """Whole numbers near `shares` (largest remainder), each at least 1 where `size` allows, at most `most`."""
    eligible = sum(limit > 0 for limit in most.values())
    least = {key: int(size >= eligible and limit > 0) for key, limit in most.items()}
    quotas = {key: min(max(math.floor(share), least[key]), most[key]) for key, share in shares.items()}
    lacking = min(size, sum(most.values())) - sum(quotas.values())
    step = 1 if lacking > 0 else -1
    # Nearest to its next whole number first; a heap, because tables with thousands of classes exist.
    waiting = [(step * (quotas[key] - share), order, key) for order, (key, share) in enumerate(shares.items())]
    heapq.heapify(waiting)
    while lacking:
        gap, order, key = heapq.heappop(waiting)
        if least[key] <= quotas[key] + step <= most[key]:
            quotas[key] += step
            lacking -= step
            heapq.heappush(waiting, (gap + 1, order, key))
    return quotas


def _empty_side(table: Table, fraction: float, chosen: set[int]) -> DataError:
    side = "no row for training" if chosen else "no row to hold out"
    return DataError(
        f"A fraction of {fraction} leaves {side} out of {len(table)} rows.",
        expected="Both parts need a row, and the only row of a label always trains.",
        fix="Choose another fraction, or pass eval_data of your own.",
    )


def overlap(train: Table, eval: Table, column: str) -> list[int]:
    """The rows of `eval` whose text is in `train` too, upper case and white space aside.

    Token lists are compared token by token; missing values never match.

    Raises:
        UnknownNameError: when a part has no such column.

    Examples:
        >>> overlap(Table([{"t": "A  b"}], ("t",)), Table([{"t": "c"}, {"t": "a b"}], ("t",)), "t")
        [1]
    """
    for table in (train, eval):
        if column not in table.columns:
            raise unknown("column", column, table.columns)
    seen = {_normal(row[column]) for row in train.rows} - {None}
    return [index for index, row in enumerate(eval.rows) if _normal(row[column]) in seen]


def _normal(value: Any) -> str | None:
    """Text for comparison: tokens are joined by a character that no normalised text holds."""
    if value is None or value != value:
        return None
    if isinstance(value, list | tuple):
        return "\0".join(_normal(item) or "" for item in value)
    return " ".join(str(value).casefold().split())


def fingerprint(table: Table) -> str:
    """The sha256 of the rows in their order, each as canonical JSON (keys sorted).

    Values that JSON lacks count as text (dates, decimals, UUIDs), as hex (bytes), or by the name of their type only.

    Examples:
        >>> fingerprint(Table([{"a": 1, "b": 2}], ())) == fingerprint(Table([{"b": 2, "a": 1}], ()))
        True
    """
    digest = hashlib.sha256()
    for row in table.rows:
        line = json.dumps(dict(row), sort_keys=True, separators=(",", ":"), default=_json)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime.date | datetime.time | decimal.Decimal | uuid.UUID):
        return str(value)
    simple = plain(value)
    if hasattr(value, "tobytes"):  # arrays and PIL images
        return f"{getattr(value, 'shape', getattr(value, 'size', ''))} {hashlib.sha256(value.tobytes()).hexdigest()}"
    # repr() may hold a memory address, which would differ from run to run.
    return simple if simple is not value else f"{type(value).__module__}.{type(value).__qualname__}"
