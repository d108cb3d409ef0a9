"""Texts in, written texts out: prompts of similar length share a batch, whatever their adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from petune.data.batching import ordered_batches
from petune.model.adapter import Adapter
from petune.model.generating import generate, refuse_unless_writing, seeds_of, write
from petune.model.modes import evaluating
from petune.model.routing import Frame, Route
from petune.tasks._padding import pad_inputs, shapes
from petune.tasks._writing import WritingTask
from petune.tasks.base import Example
from petune.training.batches import length_of
from petune.training.ranks.dealing import ALONE, Ranks


class Prompt(NamedTuple):
    """One prompt.

    Args:
        adapter: whose task says how it is padded, written and read back.
        example: encoded without labels.
    """

    adapter: Adapter
    tokenizer: Any
    example: Example


def write_texts(
    frame: Callable[[Route], Frame],
    prompts: Sequence[Prompt],
    *,
    batch_size: int,
    seed: int | Sequence[int] = 0,
    places: Sequence[int] | None = None,
    **options: Any,
) -> list[Any]:
    """What follows each prompt, in their order; a list of texts each for `num_return_sequences` above 1.

    Args:
        frame: a route -> the frame of one call, such as `bank.frame`.
        seed: of sampling: one for each prompt, or one for all, which prompt i turns into seed + i.
        places: the prompts' numbers in messages, where they are not in the caller's order.
        options: of `generate`, on top of those of each adapter's task.

    Raises:
        AdapterError: an adapter whose task writes no texts.
        ConfigError, BackboneError: see `petune.model.generating.write`.
    """
    seeds, found = seeds_of(seed, len(prompts)), [None] * len(prompts)
    kinds: dict[str, list[int]] = {}
    known: dict[tuple[int, int], str] = {}
    for index, prompt in enumerate(prompts):
        key = id(prompt.adapter), id(prompt.tokenizer)
        if key not in known:
            refuse_unless_writing(prompt.adapter)
            known[key] = _kind(prompt, options)
        kinds.setdefault(known[key], []).append(index)
    with evaluating(*{id(module): module for prompt in prompts for module in prompt.adapter.modules()}.values()):
        for kind in kinds.values():
            for batch in ordered_batches([length_of(prompts[index].example) for index in kind], batch_size):
                rows = [kind[place] for place in batch]
                named = rows if places is None else [places[row] for row in rows]
                texts = _batch(frame, [prompts[row] for row in rows], [seeds[row] for row in rows], named, options)
                for row, text in zip(rows, texts, strict=True):
                    found[row] = text
    return found


def write_answers(
    learner: Any, tokenizer: Any, examples: Sequence[Example], batch_size: int, ranks: Ranks = ALONE
) -> list[str]:
    """What a learner's adapter writes for labelled rows, in their order; nothing that it learns from is touched.

    Args:
        ranks: of the processes that all call this: each writes its share, and all get everything.
    """
    adapter, mine = learner.adapter, range(ranks.rank, len(examples), ranks.processes)
    prompts = [Prompt(adapter, tokenizer, adapter.task.prompt_of(examples[row])) for row in mine]
    # One text for each row, also where the knobs ask for several in a prediction; random numbers as in a prediction.
    options: dict[str, Any] = {"seed": list(mine), "places": list(mine), "num_return_sequences": 1}
    texts = write_texts(learner.bank.frame, prompts, batch_size=batch_size, **options) if prompts else []
    found = ranks.gathered(dict(zip(mine, texts, strict=True)))
    return [found[row] for row in range(len(examples))]


def _task(prompt: Prompt) -> WritingTask:
    assert isinstance(prompt.adapter.task, WritingTask)
    return prompt.adapter.task


def _kind(prompt: Prompt, options: dict[str, Any]) -> str:
    """Equal for prompts that may share a batch: padded alike, written with the same options."""
    asked = _options(prompt, options)
    own = id(prompt.adapter) if prompt.adapter.method.residence == "private" else 0
    shape = shapes(prompt.example)
    return f"{_pad(prompt.tokenizer)} {_task(prompt).side} {shape} {sorted(asked.items(), key=str)} {own}"


def _pad(tokenizer: Any) -> int | None:
    """The pad piece of a tokenizer, or of the one that a processor has beside its feature extractor."""
    found: int | None = getattr(tokenizer, "tokenizer", tokenizer).pad_token_id
    return found


def _options(prompt: Prompt, options: dict[str, Any]) -> dict[str, Any]:
    """The call's options on top of the task's knobs, on top of what the tokenizer asks for.

    A text ends at the checkpoint's own last piece, and at the one that its adapter learnt to end with.
    """
    task, tokenizer = _task(prompt), prompt.tokenizer
    found = {"pad_token_id": _pad(tokenizer), **task.decoding(tokenizer)}
    if "eos_token_id" in found:
        own = prompt.adapter.shell.model.generation_config.eos_token_id
        known = own if isinstance(own, list) else [] if own is None else [own]
        found["eos_token_id"] = list(dict.fromkeys([*known, *found["eos_token_id"]]))
    return {**found, **task.options(), **options}


def _batch(
    frame: Callable[[Route], Frame],
    prompts: Sequence[Prompt],
    seeds: list[int],
    places: Sequence[int],
    options: dict[str, Any],
) -> list[Any]:
    """The texts of one batch, whose rows have those places among all."""
    first, task = prompts[0], _task(prompts[0])
    asked = _options(first, options)
    device = first.adapter.shell.backbone.device
    inputs = pad_inputs([prompt.example for prompt in prompts], first.tokenizer, task.side)
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    if first.adapter.method.residence == "private":
        output = write(first.adapter.shell, None, inputs, seed=seeds, places=places, **asked)
    else:
        names = [prompt.adapter.name for prompt in prompts]
        made = frame(names[0] if len(set(names)) == 1 else names)
        output = generate(made.owner, made, inputs, seed=seeds, places=places, **asked)  # type: ignore[arg-type]
    rows = getattr(output, "sequences", output).tolist()
    width = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    times = len(rows) // len(prompts)
    texts = [
        _task(prompts[n // times]).written(row, width, prompts[n // times].tokenizer) for n, row in enumerate(rows)
    ]
    return texts if times == 1 else [texts[start : start + times] for start in range(0, len(texts), times)]
