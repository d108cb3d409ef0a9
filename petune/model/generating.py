"""Texts written by routed batches: transformers' own `generate`, each row through its own adapter.

Beams and several sequences of a row follow each other in the batch and stay together when they are reordered, so a
row's adapter is repeated for each of them. An encoder reads the rows once, before they are repeated. What `generate`
notes on a model (caches, settings) is noted on a twin that shares all modules, so that calls never meet.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, PreTrainedModel

from petune.errors import AdapterError, BackboneError, ConfigError, DataError, RouteError
from petune.lookup import name_of
from petune.model.adapter import Adapter
from petune.model.alone import Draws, Unpadded, reads_padding
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.decoding import settings, told
from petune.model.gate import running
from petune.model.prompting import Streamed, lengthened
from petune.model.routing import Frame, entered
from petune.model.shell import Shell
from petune.model.twins import with_children
from petune.tasks._generation import PASSED_ON


def generate(
    bank: Bank, frame: Frame, inputs: Mapping[str, Tensor], *, seed: int | Sequence[int] = 0, **options: Any
) -> Any:
    """One call of transformers' `generate` under a frame: each row as if it were alone, up to rounding.

    Args:
        inputs, seed, options: as for `write`.

    Raises:
        AdapterError: an adapter of this call gives labels, or two write with different kinds of models.
        BackboneError: rows without an adapter on a backbone without an `lm_head`, or one that is no language model.
        ConfigError, RouteError, DataError: as `write`.
    """
    with running(bank.backbone.model):
        frame = bank.still(frame)
        return write(_writer(bank, frame), frame, inputs, seed=seed, **options)


def _writer(bank: Bank, frame: Frame) -> Shell:
    """The shell that writes for all rows of a call: adapters of one backbone share everything around it."""
    adapters = [group.adapter for group in frame.groups] if frame.active else []
    if frame.merged is not None:
        adapters = [bank.find(frame.merged)]
    for adapter in adapters:
        refuse_unless_writing(adapter)
        if type(adapter.shell.model) is not type(adapters[0].shell.model):
            raise AdapterError(
                f"The adapters {adapters[0].name!r} and {adapter.name!r} write with different kinds of models.",
                expected="All adapters of one batch are of the same kind of task.",
                fix="Send each kind in a call of its own.",
            )
    return adapters[0].shell if adapters else _bare(bank.backbone)


def refuse_unless_writing(adapter: Adapter) -> None:
    """Raises AdapterError for an adapter that answers with labels."""
    if not adapter.shell.model.can_generate():
        raise AdapterError(
            f"The adapter {adapter.name!r} was trained for {name_of('tasks', adapter.task)}: it writes no texts.",
            expected="Adapters of causal-lm, dialogue, instruction, seq2seq-lm, summarization and translation do.",
            fix="Use predict for it.",
        )


def _bare(backbone: Backbone) -> Shell:
    """The language model without any adapter."""
    both = getattr(backbone.model.config, "is_encoder_decoder", False)
    with torch.random.fork_rng(devices=[]):
        shell = Shell(backbone, "AutoModelForSeq2SeqLM" if both else "AutoModelForCausalLM", {})
    if shell.outside:
        raise BackboneError(
            f"The backbone {backbone.source!r} was loaded without a language modelling head.",
            expected="Rows without an adapter write with the backbone's own.",
            fix="Load a checkpoint that holds one, or pass a model of the class AutoModelForCausalLM.",
        )
    return shell


def write(
    shell: Shell,
    frame: Frame | None,
    inputs: Mapping[str, Tensor],
    *,
    seed: int | Sequence[int] = 0,
    places: Sequence[int] | None = None,
    **options: Any,
) -> Any:
    """What transformers' `generate` gives, by one shell.

    Args:
        frame: of this call; None: no adapter acts (full fine-tuning).
        inputs: (B, ...) each, as the model takes them; rows of a decoder are padded on the left.
        seed: of sampling: one for each row, or one for all, which row i turns into seed + i. torch's own random
            numbers are neither used nor changed.
        places: the rows' numbers in messages, where they are some of the caller's; None: as they stand.
        options: those of transformers' `generate`, on top of the checkpoint's own settings. `max_new_tokens` is 64
            if nobody says otherwise.

    Returns:
        (B * num_return_sequences, T) int64, sequences of one row after each other; a decoder's begin with the prompt.
        With `return_dict_in_generate` transformers' own output.

    Raises:
        ConfigError: an unknown option, a strategy other than greedy, sampled or beam search, or options that
            contradict each other.
        RouteError: the route's length is not the batch size, or it is a route per token.
        DataError: a row of a decoder that is padded on the right.
        BackboneError: no pad token for several rows, or more pieces than the backbone has positions.
    """
    given = {name: value for name, value in inputs.items() if name in shell.takes}
    rows = len(given[shell.model.main_input_name])
    _refuse_other_route(frame, rows)
    config = settings(shell, options, rows)
    pads, asked = _pads(shell, given), given
    longer = lengthened(frame, shell, given, writes=not shell.model.config.is_encoder_decoder)
    if longer is not None:
        given = {name: value for name, value in longer.inputs.items() if name in shell.takes}
        # What processors are to pass over: a row's prompt stands before its text, as its padding does.
        pads = pads if longer.decodes else [pad + max(longer.lengths) for pad in pads]
    _refuse_too_long(shell, given, config, range(rows) if places is None else places)
    times = max(config.num_beams or 1, config.num_return_sequences or 1)
    wide = None if frame is None else frame.expanded(times)
    seeds = seeds_of(seed, rows)
    own = functools.partial(
        _processors,
        seeds=seeds,
        times=config.num_return_sequences or 1,
        pads=[n for n in pads for _ in range(times)],
        prompted=longer is not None,
    )
    model = _twin(shell, config, own, wide)
    more = {name: options[name] for name in PASSED_ON if name in options}
    if longer is not None and "streamer" in more:
        more["streamer"] = Streamed(more["streamer"], asked["input_ids"])
    with told(), torch.no_grad():
        if model.config.is_encoder_decoder:
            with entered(None if frame is None else frame.fresh()):
                given["encoder_outputs"] = _encoded(model, given)
            if "input_ids" not in given and "attention_mask" in shell.takes:  # of sounds: all states are heard
                states: Tensor = given["encoder_outputs"][0]
                given["attention_mask"] = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
            given |= {"input_ids": asked["input_ids"]} if longer is not None else {}
        with entered(wide):
            # Whisper's own would cut long sounds into windows; here all rows are of one.
            made = GenerationMixin.generate(model, **given, **more)  # type: ignore[arg-type]
    return made if longer is None else longer.unprompted(made, asked["input_ids"])


def _encoded(model: PreTrainedModel, given: Mapping[str, Any]) -> Any:
    """The encoder's output, (B, T, D): its rows are not repeated yet."""
    encoder = model.get_encoder()
    names = {"input_ids", "attention_mask", "inputs_embeds", model.main_input_name}
    return encoder(**{name: given[name] for name in names & given.keys()}, return_dict=True)


def _pads(shell: Shell, given: dict[str, Any]) -> list[int]:
    """How many pieces of padding each row of a decoder begins with; none for encoder-decoders."""
    ids = given[shell.model.main_input_name]
    mask = given.get("attention_mask")
    if shell.model.config.is_encoder_decoder:
        return [0] * len(ids)
    if mask is None:
        mask = given["attention_mask"] = torch.ones_like(ids)
    if not bool((mask[:, -1] != 0).all()):
        row = int((mask[:, -1] == 0).nonzero()[0])
        raise DataError(
            f"row {row} is padded on the right.",
            expected="A decoder goes on from the last piece, so its rows are padded on the left.",
            fix="Set tokenizer.padding_side = 'left'.",
        )
    return [int(count) for count in (mask == 0).sum(1)]


def _refuse_too_long(shell: Shell, given: Mapping[str, Any], config: GenerationConfig, places: Sequence[int]) -> None:
    longest = shell.backbone.positions
    ids = given.get("input_ids" if shell.model.main_input_name == "input_ids" else "decoder_input_ids")
    if longest is None or ids is None:
        return
    read, written = ids.shape[1], config.max_new_tokens or config.max_length or 0
    apart = shell.model.config.is_encoder_decoder and "input_ids" in given
    both = max(read, written) if apart else read + written
    if both > longest:
        mask = given.get("attention_mask")
        row = "" if mask is None else f"row {places[int(mask.sum(1).argmax())]}: "
        raise BackboneError(
            f"{row}{read} pieces to read and {written} new ones do not fit.",
            expected=f"This backbone has {longest} positions.",
            fix="Lower max_new_tokens, or cut the prompts.",
        )


def _refuse_other_route(frame: Frame | None, rows: int) -> None:
    if frame is None or frame.batch is None:
        return
    if frame.tokens is not None:
        raise RouteError("A route per token cannot generate.", fix="Name one adapter for each row.")
    frame.refuse_other_batch(rows)


def seeds_of(seed: int | Sequence[int], rows: int) -> list[int]:
    """One seed for each row.

    Raises:
        ConfigError: another number of seeds than rows.

    Examples:
        >>> seeds_of(7, 3)
        [7, 8, 9]
    """
    if isinstance(seed, int):
        return [seed + row for row in range(rows)]
    if len(seed) != rows:
        raise ConfigError(f"{len(seed)} seeds were given for {rows} rows.", expected="One for each row, or one number.")
    return [int(one) for one in seed]


# ---------------------------------------------------------------------- the model that generates


def _twin(shell: Shell, config: GenerationConfig, own: Any, frame: Frame | None) -> PreTrainedModel:
    """The shell's model for one call: the same modules, with settings and notes of its own."""
    model = with_children(shell.model, {})
    model.config = copy.copy(shell.model.config)
    # Masks that `generate` makes itself (for caches of a fixed size) are to be made as the backbone makes them.
    model.config._attn_implementation = shell.backbone.model.config._attn_implementation
    model.generation_config = config
    model.__dict__["_get_logits_processor"] = functools.partial(own, model._get_logits_processor)
    heads = [] if frame is None else [(group.adapter.shell.outside, group.rows) for group in frame.groups]
    if any(outside and rows is not None for outside, rows in heads):
        _refuse_headless(frame)
        for name in shell.outside:
            model._modules[name] = _Heads([(outside[name], rows) for outside, rows in heads if rows is not None])
    return model


def _refuse_headless(frame: Frame | None) -> None:
    served = sum(len(group.rows) for group in frame.groups if group.rows is not None) if frame is not None else 0
    if frame is not None and served != frame.batch:
        raise BackboneError(
            "The backbone was loaded without a language modelling head, so rows without an adapter cannot be written.",
            fix="Name an adapter for every row.",
        )


class _Heads(nn.Module):
    """Every row through its own adapter's `lm_head`, where the backbone has none."""

    def __init__(self, heads: Sequence[tuple[nn.Module, Tensor]]) -> None:
        super().__init__()
        self._heads = list(heads)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) -> (B, T, V)."""
        found = [(rows, head(x.index_select(0, rows))) for head, rows in self._heads]
        made = found[0][1].new_empty(len(x), *found[0][1].shape[1:])
        for rows, logits in found:
            made = made.index_copy(0, rows, logits)
        return made


def _processors(
    plain: Any,
    generation_config: GenerationConfig,
    *,
    seeds: list[int],
    times: int,
    pads: list[int],
    prompted: bool,
    **given: Any,
) -> LogitsProcessorList:
    """transformers' processors, each row seen as if it were alone; the last one draws, where pieces are drawn."""
    found = list(plain(generation_config=generation_config, **given))
    for each in found if prompted else ():
        if getattr(each, "prompt_ignore_length", None) is not None:
            each.prompt_ignore_length = None  # it counts the padding, and knows nothing of the prompt behind it
    if any(pads):
        found = [Unpadded(each, pads) if reads_padding(each) else each for each in found]
    if generation_config.do_sample:
        found.append(Draws(seeds, times))
        generation_config.do_sample = False  # one piece is left: no need to draw from torch's own numbers
    return LogitsProcessorList(found)
