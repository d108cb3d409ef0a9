"""The trunk: the frozen blocks below the lowest adapter. What they make of a row is the same in every epoch.

    s_{l+1} = block_l(s_l)        l < n: the trunk, of which s_n can be caught        l >= n: live, from s_n on

The calls of the trunk's blocks are intercepted while somebody listens, each by what its own call says: one that
catches the states ends where the trunk does, one that is given them passes over the blocks, and any other call, such as
another thread's, goes its usual way. Module tree, classes and state_dict stay untouched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from petune.model.families import FAMILIES
from petune.model.intercepting import Forward, intercepting, of_calls, saying
from petune.tasks.base import IGNORE

States = tuple[Tensor, ...]
"""What enters the lowest live block, (B, T, D): of each stack of blocks of which some belong to the trunk."""


WHOLE = 2**31
"""The length of a row that is not cut."""


class Stack(NamedTuple):
    """The lower part of one list of blocks."""

    blocks: tuple[nn.Module, ...]
    whole: bool
    """No block of this list is live."""
    reads: Literal["encoder", "decoder"]
    """Whose pieces it sees: those of the input, or those that an encoder-decoder writes."""


class Reached(Exception):
    """The end of the trunk; no error: what would follow is not needed."""


@dataclass
class _Call:
    """One call: the states that are given, or room for those that are caught."""

    trunk: Trunk
    states: list[Tensor | None]
    given: bool


_running: ContextVar[_Call | None] = of_calls("petune_trunk", None)


class Trunk:
    """The blocks of a backbone below a given one.

    Args:
        stacks: in the order of the data flow, at least one.
    """

    def __init__(self, stacks: Sequence[Stack]) -> None:
        self.stacks = tuple(stacks)
        self._forms: dict[tuple[int, int], Form] = {}

    @property
    def depth(self) -> int:
        """How many blocks belong to it."""
        return sum(len(stack.blocks) for stack in self.stacks)

    def modules(self) -> Iterator[nn.Module]:
        """Every module inside of its blocks."""
        return (module for stack in self.stacks for block in stack.blocks for module in block.modules())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Makes `catch` and `passing` possible; several trunks of one backbone may listen at once."""
        with ExitStack() as all_of_them:
            for number, stack in enumerate(self.stacks):
                each = functools.partial(self._interceptor, number)
                all_of_them.enter_context(intercepting(stack.blocks, each))
            yield

    def _interceptor(self, number: int, index: int, forward: Forward) -> Forward:
        return _Interceptor(self, number, index, forward).forward

    @torch.no_grad()
    def catch(self, forward: Callable[[], Any]) -> States:
        """The states at the trunk's end; what `forward` would do behind it is not done."""
        call = _Call(self, [None] * len(self.stacks), given=False)
        with saying(_running, call), suppress(Reached):
            forward()
        return tuple(state for state in call.states if state is not None)

    def lengths(self, inputs: Mapping[str, Tensor]) -> list[Tensor] | None:
        """(B,) pieces of each row, for each stack; None: the batch does not tell, or pads on the left.

        Pictures and sounds are never cut: of theirs all states are kept.
        """
        if "input_ids" not in inputs:
            return self._of_arrays(inputs)
        masks = [_mask(stack, inputs) for stack in self.stacks]
        if any(mask is None or bool((mask[:, 1:] > mask[:, :-1]).any()) for mask in masks):
            return None
        return [mask.sum(1) for mask in masks if mask is not None]

    def _of_arrays(self, inputs: Mapping[str, Tensor]) -> list[Tensor] | None:
        first = next((tensor for tensor in inputs.values() if tensor.is_floating_point()), None)
        if first is None:
            return None
        found = []
        for stack in self.stacks:
            mask = _mask(stack, inputs) if stack.reads == "decoder" else None
            found.append(torch.full((len(first),), WHOLE) if mask is None else mask.sum(1))
        return found


def _mask(stack: Stack, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """(B, T) 1 where a row has a piece."""
    if stack.reads == "encoder":
        return inputs.get("attention_mask")
    if "decoder_attention_mask" in inputs:
        return inputs["decoder_attention_mask"]
    # Read shifted by one, so a row has as many inputs as targets; what follows cannot reach back to them.
    # A classifier's decoder reads the input itself.
    return (inputs["decoder_labels"] != IGNORE).long() if "decoder_labels" in inputs else inputs.get("attention_mask")


@contextmanager
def passing(trunk: Trunk | None, states: States | None) -> Iterator[None]:
    """Calls of this thread pass over the trunk's blocks, and begin with these states; with None they do not."""
    if trunk is None or states is None:
        yield
        return
    with saying(_running, _Call(trunk, list(states), given=True)):
        yield


def trunk_of(blocks: Sequence[tuple[str, nn.Module]], lowest: int, model_type: str) -> Trunk | None:
    """The trunk below a block; None where nothing is below it.

    Args:
        blocks: (path, block) in the order of the data flow.
        lowest: the index of the lowest live block; all blocks belong to the trunk where it is their number.
        model_type: transformers' name of the architecture.
    """
    family = FAMILIES.get(model_type)
    if family is None or family.shared_blocks:  # a shared block's calls cannot be told apart
        return None
    lists: dict[str, list[tuple[int, nn.Module]]] = {}
    for index, (path, block) in enumerate(blocks):
        lists.setdefault(path.rsplit(".", 1)[0], []).append((index, block))
    stacks = []
    for number, inside in enumerate(lists.values()):
        below = tuple(block for index, block in inside if index < lowest)
        if below:
            reads: Literal["encoder", "decoder"] = "decoder" if number else "encoder"
            stacks.append(Stack(below, len(below) == len(inside), reads))
    return Trunk(stacks) if stacks else None


class _Interceptor:
    """Stands before one block. Its `forward` is a bound method, so that a deep copy re-binds it."""

    def __init__(self, trunk: Trunk, number: int, index: int, inner: Forward) -> None:
        stack = trunk.stacks[number]
        self._trunk, self._number, self._index, self._inner = trunk, number, index, inner
        self._last, self._whole = index == len(stack.blocks) - 1, stack.whole

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's output: its own, or what stands in for it."""
        call = _running.get()
        if call is None or call.trunk is not self._trunk:
            return self._inner(*args, **kwargs)
        return self._passed_over(call, args, kwargs) if call.given else self._caught(call, args, kwargs)

    def _caught(self, call: _Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = self._inner(*args, **kwargs)
        call.trunk._forms[self._number, self._index] = Form.of(output, args, kwargs)
        if self._last:
            call.states[self._number] = output[0] if isinstance(output, tuple) else output
            if self._number == len(call.states) - 1:
                raise Reached
        return output

    def _passed_over(self, call: _Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        form = call.trunk._forms[self._number, self._index]
        state = call.states[self._number] if self._last else _first(args, kwargs)
        if form.makes and not self._whole:  # such as T5's first block, which makes the position bias of all
            output = self._inner(*args, **kwargs)
            return (state, *output[1:]) if self._last else output
        return form.built(state, args, kwargs)


@dataclass
class Form:
    """How a block answers: with the state alone, or with a tuple in which the state comes first.

    Args:
        rest: for what follows the state, the place among the arguments that it came from; None: a None.
        makes: whether anything was made by the block itself.
    """

    alone: bool
    rest: list[int | str | None] = field(default_factory=list)
    makes: bool = False

    @classmethod
    def of(cls, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Form:
        """Reads an answer."""
        if not isinstance(output, tuple):
            return cls(alone=True)
        given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        rest = [next((place for place, it in given if it is other), None) for other in output[1:]]
        made = any(place is None and it is not None for place, it in zip(rest, output[1:], strict=True))
        return cls(False, [None if it is None else at for at, it in zip(rest, output[1:], strict=True)], made)

    def built(self, state: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An answer of this form."""
        if self.alone:
            return state
        given: dict[int | str, Any] = dict([*enumerate(args), *kwargs.items()])
        return (state, *(None if place is None else given[place] for place in self.rest))


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs["hidden_states"]
