"""Adapters for other programs: a folder without anything that is petune's own.

| target | for | what is written |
|---|---|---|
| `peft` | peft, transformers | a plain LoRA with its head; a prefix or a method of peft's as peft has it |
| `vllm` | vLLM and its kind | a plain LoRA without a head |
| `gguf` | llama.cpp's `convert_lora_to_gguf.py` | a plain LoRA without a head, and nothing beside it |
| `adapters` | AdapterHub's library | its layout, for BERT's kind: bottleneck and LoRA, head included |

What such a program would read wrongly, or pass over in silence, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from petune.errors import AdapterFileError, ConfigError
from petune.knobs import choose
from petune.storage import adapter_file, adapterhub_writing, atomic, container, layout, peft_format, strict_json
from petune.storage.full_facts import is_full_model
from petune.storage.plain_lora import plain_lora
from petune.storage.stored import Stored

VLLM_RANK = 16
"""vLLM's own limit of the rank, unless it is started with another one."""
Files = dict[str, bytes]


class Export(NamedTuple):
    """What was written.

    Args:
        folder: where it is.
        notices: what whoever loads it should know, one sentence each.
    """

    folder: Path
    notices: tuple[str, ...] = ()


class _Made(NamedTuple):
    files: Files
    notices: list[str]
    tokenizer: bool = False


def export(folder: str | Path, out: str | Path, *, target: str = "peft", drop_head: bool = False) -> Export:
    """Writes an adapter so that another program reads it; the scale of a LoRA is folded into its factors.

    Args:
        folder: an adapter, by petune or by peft.
        out: a new folder, or an empty one.
        target: `"peft"`, `"vllm"`, `"gguf"` or `"adapters"`.
        drop_head: leave the head out; the targets without heads refuse an adapter with one otherwise.

    Raises:
        AdapterFileError: an adapter that the target cannot compute or would read wrongly, with the reason.
        ConfigError: no such target, or a folder that is not empty.

    Examples:
        >>> from petune import TrainConfig, Tuner
        >>> tuner = Tuner(backbone, name="mood").fit(rows, config=TrainConfig(epochs=1, progress="off"))
        >>> saved = tuner.save(Path(backbone).parent / "mood")
        >>> plain = export(saved, saved.parent / "plain").folder
        >>> (plain / "adapter_config.json").exists(), (plain / "petune.json").exists()
        (True, False)
    """
    choose("target", target, tuple(TARGETS))
    source, place = Path(folder), Path(out)
    if is_full_model(source):
        raise AdapterFileError(f"{source} is a whole model, and a plain transformers folder already.", fix="Copy it.")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ConfigError(f"{place} is there already.", expected="A new folder, or an empty one.")
    stored = adapter_file.read(source)
    made = TARGETS[target](stored, drop_head)
    beside = {name: (source / name).read_bytes() for name in stored.exports} if made.tokenizer else {}
    atomic.make_folder(place)
    with atomic.only_writer(place):
        atomic.write_files(place, {**beside, **made.files})
    return Export(place, (*stored.notices, *made.notices))


def _peft(stored: Stored, drop_head: bool) -> _Made:
    why = peft_format.why_no_peft_config(stored)
    if why is not None:
        raise AdapterFileError(why, expected="A method that peft has.", fix="target='adapters' writes a bottleneck.")
    notices = [] if stored.manifest["labels"] == [] else ["peft keeps no label names: the reader must know them."]
    if stored.method == "lora":
        return _Made(_lora_files(stored, {} if drop_head else stored.head), notices, tokenizer=True)
    derived = peft_format.derived_tensors(stored)
    tensors, _ = layout.flatten(stored, derived, peft_format.head_prefix(stored))
    if derived:  # peft reads a prefix as one matrix, and the keys and values of each site not at all
        heads = {peft_format.head_prefix(stored) + name for name in stored.head}
        tensors = {name: tensor for name, tensor in tensors.items() if name in derived or name in heads}
    return _Made(_files(peft_format.adapter_config(stored) or {}, tensors), notices, tokenizer=True)


def _vllm(stored: Stored, drop_head: bool) -> _Made:
    _refuse_head(stored, drop_head, "vLLM")
    rank = plain_lora(stored).rank
    over = [f"Start vLLM with --max-lora-rank {_power(rank)} or more: the rank is {rank}."] if rank > VLLM_RANK else []
    return _Made(_lora_files(stored, {}), over, tokenizer=True)


def _gguf(stored: Stored, drop_head: bool) -> _Made:
    _refuse_head(stored, drop_head, "llama.cpp")
    if stored.manifest.get("transposed"):
        raise AdapterFileError(
            "The adapter acts on maps that keep their weights transposed (GPT-2's Conv1D).",
            expected="llama.cpp's converter turns such weights, and would turn the factors of a LoRA with them.",
            fix="petune merge, and convert the whole model.",
        )
    home = stored.manifest["backbone"]["path_or_id"] or "the backbone's folder"
    return _Made(_lora_files(stored, {}), [f"convert_lora_to_gguf.py --base {home} FOLDER makes the gguf file of it."])


def _adapters(stored: Stored, drop_head: bool) -> _Made:
    files, notices = adapterhub_writing.files_of(stored, drop_head=drop_head)
    return _Made(files, notices)


TARGETS: dict[str, Callable[[Stored, bool], _Made]] = {
    "peft": _peft, "vllm": _vllm, "gguf": _gguf, "adapters": _adapters,
}  # fmt: skip
"""Name of a target -> what makes its files."""


def _refuse_head(stored: Stored, drop_head: bool, program: str) -> None:
    if stored.head and not drop_head:
        raise AdapterFileError(
            f"The adapter has a head ({', '.join(sorted(stored.head)[:3])}), which {program} does not read.",
            expected="A language model's adapter, whose head is the backbone's.",
            fix="Leave it out with drop_head=True (--drop-head), or merge the adapter.",
        )


def _lora_files(stored: Stored, head: Mapping[str, Tensor]) -> Files:
    """A plain LoRA in peft's layout."""
    plain, knobs = plain_lora(stored), stored.knobs
    whole = Stored(stored.manifest, plain.layers, head)
    tensors, _ = layout.flatten(whole, {})
    prefix = f"{stored.prefix}." if stored.prefix else ""
    modules = peft_format.head_modules(stored) if head else None
    backbone = stored.manifest["backbone"]
    config = {
        "peft_type": "LORA",
        "task_type": peft_format.task_type(whole, modules or []),
        "base_model_name_or_path": backbone["path_or_id"] or backbone["id"],
        "r": plain.rank,
        "lora_alpha": plain.rank,
        "lora_dropout": float(knobs.get("dropout", 0.0)),
        "target_modules": [f"{prefix}{path}" for path in plain.layers],
        "modules_to_save": modules,
        "fan_in_fan_out": bool(stored.manifest.get("transposed")),
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
    return _files(config, tensors)


def _files(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Files:
    return {
        adapter_file.PEFT_CONFIG: (strict_json.dumps(config, indent=2) + "\n").encode(),
        adapter_file.ADAPTER: container.pack(tensors, {"format": "pt"}),
    }


def _power(rank: int) -> int:
    """The next power of two."""
    return 1 << (rank - 1).bit_length()


__all__ = ["TARGETS", "Export", "export"]
