"""Question: what do bf16, several GPUs and sharded weights do to training, and what does a routed batch cost on a GPU?

    python -m benchmarks.gpu                                         # one GPU: precisions, and routed batches
    torchrun --nproc-per-node N -m benchmarks.gpu                    # N GPUs: DDP beside FSDP2, in bf16
    python -m benchmarks.gpu --device cpu --tiny --out FILE          # a check that it runs, anywhere

The backbone is a Llama of 1.1 billion random weights (the time of a step does not depend on their values) and the rows
are random words: what is measured is time and memory, never quality. Every arm is a whole fit of LoRA from the same
first weights over the same rows. Arms take turns, the order rotating; each has run once before the first round, which
is not counted. Clocks stand around petune's loop and wait for the device. Arms of one precision must have the same
losses, or nothing is reported. With `--out` the result goes to that file; runs on GPUs with enough repeats go to
benchmarks/results/gpu-PROCESSES.json as well.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks import machine
from benchmarks.serving import making
from benchmarks.serving.claims import hold
from benchmarks.serving.routing import apart, one_row, routed, token_rows
from benchmarks.serving.timing import interleaved, rotated, summary
from benchmarks.train_step.ours import clocked
from petune import LoRA, SequenceClassification, TrainConfig, Tuner
from petune.model.backbone import Backbone
from petune.training.ranks.sharding import held_bytes

FEWEST = 5
"""Repeats below which a run is a check and no result."""
ALIKE, ROUTED = 1e-3, 5e-2
"""Largest relative difference of losses between DDP and FSDP2, and of hidden states in bf16 between routed and solo."""
LARGE = {"hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
WORDS = 1000


@dataclass(frozen=True)
class Size:
    """How large a run is."""

    shape: dict[str, int]
    vocabulary: int
    rows: int
    longest: int
    batch: int
    adapters: int


FULL = Size({**LARGE, "intermediate_size": 5632}, 32_000, 512, 256, 8, 32)
TINY = Size({**SMALL, "intermediate_size": 64}, 1_100, 24, 12, 4, 3)


def main(words: list[str] | None = None) -> None:
    """Measures, prints, and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a backbone of almost no size")
    parser.add_argument("--repeats", type=int, default=FEWEST)
    parser.add_argument("--out", type=Path, help="a JSON file for the result")
    asked = parser.parse_args(words)
    result = run(asked.device, tiny=asked.tiny, repeats=asked.repeats)
    if torch.distributed.is_initialized():
        main_process = torch.distributed.get_rank() == 0
        torch.distributed.destroy_process_group()
        if not main_process:
            return
    if asked.device == "cuda" and not asked.tiny and asked.repeats >= FEWEST:
        machine.write_result(f"gpu-{result['processes']}", result)
    if asked.out is not None:
        asked.out.write_text(json.dumps({**result, "machine": machine.describe()}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["summary"], indent=2))


def run(device: str, *, tiny: bool = False, repeats: int = FEWEST) -> dict[str, Any]:
    """The whole measurement as JSON; under a launcher every process must call it.

    Raises:
        SystemExit: the device is not there, or another one would be taken.
    """
    found = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"  # type: ignore[union-attr]
    if found != device:
        raise SystemExit(
            f"--device {device} was asked for, and training would run on {found!r}. Hide it, or ask for it."
        )
    size = TINY if tiny else FULL
    processes = _processes()
    rounds = training(size, repeats, processes)
    told = {name: told_of(arm, size) for name, arm in rounds.items()}
    serving = routing(size, device, repeats) if processes == 1 else {}
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "device": device, "gpus": names, "tiny": tiny, "processes": processes, "repeats": repeats,
        "rows": size.rows, "batch": size.batch, "training": told, "routed": serving,
        "summary": {name: arm["real_tokens_per_second"] for name, arm in told.items()},
    }  # fmt: skip


def arms(processes: int) -> dict[str, dict[str, Any]]:
    """Name -> knobs of `TrainConfig`; several processes compare how weights lie, one compares precisions."""
    if processes > 1:
        return {
            "DDP, bf16": {"mixed_precision": "bf16"},
            "FSDP2, bf16": {"mixed_precision": "bf16", "sharding": "fsdp2"},
        }
    return {
        "float32": {},
        "bf16": {"mixed_precision": "bf16"},
        "bf16, checkpointing": {"mixed_precision": "bf16", "gradient_checkpointing": True},
    }


def training(size: Size, repeats: int, processes: int) -> dict[str, list[dict[str, Any]]]:
    """What each arm's fits came to, one entry per round.

    Raises:
        AssertionError: arms that should learn the same do not.
    """
    model, rows = backbone(size), texts(size)
    calls: dict[str, Callable[[], dict[str, Any]]] = {
        name: partial(fitted, size, model, rows, knobs) for name, knobs in arms(processes).items()
    }
    kept: dict[str, list[dict[str, Any]]] = {name: [] for name in calls}
    for number in range(repeats + 1):
        for name in rotated(list(calls), number):
            made = calls[name]()
            if number:
                kept[name].append(made)
    first, *others = (found[0]["losses"] for name, found in kept.items() if "bf16" in name)
    for other in others:
        far = max(abs(one - two) / abs(one) for one, two in zip(first, other, strict=True))
        hold("losses of two arms in bf16", far, ALIKE)
    return kept


def fitted(size: Size, model: PreTrainedModel, rows: list[dict[str, Any]], knobs: dict[str, Any]) -> dict[str, Any]:
    """One fit of one epoch; the last evaluation looks at what is held between forwards."""
    held: list[int] = []

    def holding(y_true: Any, y_pred: Any) -> float:
        held.append(held_bytes(model))
        return 0.0

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    mine = Tuner(model, task=SequenceClassification(max_length=size.longest + 2), method=LoRA(), tokenizer=words(size))
    config = TrainConfig(
        epochs=1, batch_size=size.batch, progress="off", metrics=(holding,), cache_trunk=False, **knobs
    )
    with clocked() as seconds:
        mine.fit(rows, rows[:4], config)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return {
        "seconds": sum(seconds),
        "tokens": mine.report.real_tokens,
        "tokens_per_second": mine.report.tokens_per_second,
        "losses": [row["loss"] for row in mine.report.history if "loss" in row],
        "trained_bytes": 4 * mine.report.trainable_parameters,
        "frozen_bytes_held": held[-1],
        "peak_megabytes": torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None,
    }


def told_of(found: list[dict[str, Any]], size: Size) -> dict[str, Any]:
    """What a result keeps of an arm: medians, ranges, and one loss curve."""
    rates = [each["tokens_per_second"] for each in found]
    last = found[-1]
    return {
        "milliseconds": summary([each["seconds"] for each in found]),
        "real_tokens_per_second": {"median": statistics.median(rates), "min": min(rates), "max": max(rates)},
        **{name: last[name] for name in ("tokens", "losses", "trained_bytes", "frozen_bytes_held", "peak_megabytes")},
    }


@torch.no_grad()
def routing(size: Size, device: str, repeats: int) -> dict[str, Any]:
    """A batch with an adapter per row over the bare backbone, in bf16; answers are compared with solo runs first."""
    bare = backbone(size).to(device, torch.bfloat16)
    home = Backbone.open(making.twin(bare))
    adapters = making.random_adapters(home, size.adapters, LoRA(rank=making.RANK))
    mine = making.petune_model(making.twin(bare), adapters)
    names = [adapter.name for adapter in adapters]
    inputs = {name: tensor.to(device) for name, tensor in token_rows(bare, size.adapters, size.longest).items()}
    rows = routed(mine, names, inputs).last_hidden_state
    solo = [routed(mine, name, one_row(inputs, row)).last_hidden_state for row, name in enumerate(names)]
    far = hold("routed rows and solo runs", apart(rows, torch.cat(solo)) / float(rows.abs().max()), ROUTED)

    def waited(call: Callable[[], Any]) -> Callable[[], Any]:
        def timed() -> None:
            call()
            if device == "cuda":
                torch.cuda.synchronize()

        return timed

    calls = {"bare": waited(lambda: bare(**inputs)), "petune": waited(lambda: routed(mine, names, inputs))}
    told = {name: summary(each) for name, each in interleaved(calls, repeats, 0.01 if size is TINY else 0.5).items()}
    over = told["petune"]["median"] / told["bare"]["median"]
    return {"rows": size.adapters, "tokens": size.longest, "milliseconds": told, "over_bare": over, "far": far}


def backbone(size: Size) -> PreTrainedModel:
    """The same random weights in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=size.vocabulary, max_position_embeddings=2 * size.longest, pad_token_id=0, **size.shape
        )
        return AutoModel.from_config(config).eval()


def texts(size: Size) -> list[dict[str, Any]]:
    """Rows of random words, a quarter of the longest to all of it; the first word tells the label."""
    draw = random.Random(0)
    drawn = [draw.choices(range(WORDS), k=draw.randint(size.longest // 4, size.longest)) for _ in range(size.rows)]
    return [{"text": " ".join(f"w{n}" for n in row), "label": ("odd" if row[0] % 2 else "even")} for row in drawn]


def words(size: Size) -> PreTrainedTokenizerFast:
    """A piece for each word."""
    named = {"[PAD]": 0, "[UNK]": 1, **{f"w{number}": number + 2 for number in range(WORDS)}}
    engine = Tokenizer(models.WordLevel(named, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=engine, pad_token="[PAD]", unk_token="[UNK]", model_max_length=size.longest,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _processes() -> int:
    """How many the launcher has started."""
    from petune.training.accelerating import accelerating

    with accelerating(TrainConfig()) as accelerator:
        return accelerator.num_processes


if __name__ == "__main__":
    main()
