"""From a route, as a caller writes it, to the frame of a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from petune.errors import RouteError
from petune.lookup import near
from petune.model.bodies import REPLACED
from petune.model.routing import Frame, Group, Route
from petune.model.seating import Seat

if TYPE_CHECKING:
    from petune.model.adapter import Adapter
    from petune.model.bank import Contents

Thing = TypeVar("Thing")


def find_in(residents: Mapping[str, Thing], name: str) -> Thing:
    """A resident by name.

    Raises:
        RouteError: no such resident; the near names are suggested.
    """
    if name not in residents:
        raise RouteError(
            f"There is no adapter {name!r} here.",
            fix=near(name, residents) if residents else "Add one first: add(name, folder).",
        )
    return residents[name]


def named(route: Route) -> list[str]:
    """The names in a route, each once; entries that are none are left for `frame` to refuse.

    Examples:
        >>> named(["a", None, "b", "a"]), named([["a", None], ["b", "b"]])
        (['a', 'b'], ['a', 'b'])
    """
    if route is None or isinstance(route, str):
        return [] if route is None else [route]
    flat = (entry for row in route for entry in (row if isinstance(row, list | tuple) else (row,)))
    return list(dict.fromkeys(entry for entry in flat if isinstance(entry, str)))


def frame(owner: object, contents: Contents, route: Route) -> Frame:
    """The frame of one call; unknown names are errors before any work is done.

    Args:
        owner: the bank.
        contents: who is resident.

    Raises:
        RouteError: unknown names, or a route that is neither a name, None nor a sequence of these, per row or, for
            packed input, per token of each row.
    """
    if route is None:
        return Frame(owner)
    if isinstance(route, str):
        adapter, seat = find_in(contents.adapters, route), contents.seats.get(route)
        if seat is None:
            return Frame(owner, (Group(adapter, None),), route=route)
        return Frame(owner, route=route, chart=contents.chart, seats=(seat,))
    entries = list(route)
    tokens = None
    if entries and isinstance(entries[0], list | tuple):
        tokens, entries = _per_token(entries)
    names = _checked(entries)
    found: dict[str, Seat | Adapter] = {
        name: contents.seats.get(name) or find_in(contents.adapters, name)
        for name in dict.fromkeys(names)
        if name is not None
    }
    seats = tuple(contents.seats.get(name) if name is not None else None for name in names)
    live = tuple(Group(it, _rows(names, name, contents)) for name, it in found.items() if not isinstance(it, Seat))
    made = Frame(owner, live, len(names), route, chart=contents.chart, seats=seats, tokens=tokens)
    if tokens is not None:
        _refuse_packed(made, found)
    return made


def refuse_gone(residents: Mapping[str, Adapter], frame: Frame) -> None:
    """Raises RouteError when an adapter whose layers are called as they are was removed: nobody listens for it."""
    for adapter in frame.live:
        now = residents.get(adapter.name)
        if now is None or now.shell is not adapter.shell:
            raise RouteError(
                f"The adapter {adapter.name!r} was removed after this route had been chosen.",
                expected="Such an adapter stays until the calls on it are over.",
                fix="Choose the route again.",
            )


def refuse_beside_replaced(model: nn.Module, frame: Frame) -> None:
    """Raises RouteError while a method from peft has replaced modules of a backbone, for a call in which it does not
    serve every row: its modules act on all of them."""
    if not model.__dict__.get(REPLACED) or frame.merged is not None:
        return
    groups = frame.groups
    if len(groups) == 1 and groups[0].rows is None and groups[0].adapter.method.residence == "sole":
        return
    raise RouteError(
        "A method from peft has replaced modules of this backbone; they act on every row.",
        expected="Meanwhile each call names that adapter, for all of its rows.",
        fix="Remove it to call the bare backbone or other adapters, or give it a backbone of its own.",
    )


def _checked(entries: list[Any]) -> list[str | None]:
    """Names and None, and at least one."""
    wrong = next((entry for entry in entries if entry is not None and not isinstance(entry, str)), None)
    if wrong is not None or not entries:
        raise RouteError(
            f"A route cannot hold {wrong!r}." if entries else "The route is empty.",
            expected="A route is a name, None, or one of these per row (or per token, as a list for every row).",
        )
    return entries


def _rows(names: list[str | None], name: str, contents: Contents) -> Tensor | None:
    """The rows of one name; None: all of them."""
    rows = [index for index, at in enumerate(names) if at == name]
    return None if len(rows) == len(names) else torch.tensor(rows, device=contents.chart.table.device)


def _per_token(rows: list[Any]) -> tuple[tuple[int, int], list[Any]]:
    """(B, T) and the B * T entries of a route per token."""
    lengths = {len(row) if isinstance(row, list | tuple) else -1 for row in rows}
    if len(lengths) != 1 or min(lengths) < 1:
        raise RouteError(
            "The rows of a route per token are not all of one length.",
            expected="One name or None for each token of each row, padding included.",
        )
    return (len(rows), lengths.pop()), [entry for row in rows for entry in row]


def _refuse_packed(frame: Frame, found: Mapping[str, Seat | Adapter]) -> None:
    """A prefix belongs to a row, and so does a layer that is called on rows: neither can act on single tokens."""
    for name, it in found.items():
        if frame.attends or not isinstance(it, Seat) or it.loose:
            raise RouteError(
                f"The adapter {name!r} cannot be routed by token, or one beside it cannot.",
                expected="LoRA and bottleneck adapters can; a prefix, or a head part in the backbone, sees whole rows.",
                fix="Give such an adapter rows of its own, with one route entry for each row.",
            )
