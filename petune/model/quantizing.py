"""Quantised backbones: the linear maps of the blocks in 4 or 8 bits, through bitsandbytes; all else is as stored.

    4bit (NF4):  w = code[q] · absmax of its block of 64        Dettmers et al. 2023, QLoRA, arXiv:2305.14314
    8bit:        w = q · largest of its row / 127               Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339

What a checkpoint lacks lies outside of the blocks, so heads are never quantised. On a CPU both kinds compute with the
weights unpacked and the inputs as they are: bitsandbytes' short cuts there (see `settle`) repack the weights for good,
or let a row's answer depend on its neighbours.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from petune.errors import BackboneError
from petune.lookup import unknown
from petune.methods.base import widths
from petune.model.families import FAMILIES
from petune.model.safe_reading import SAFELY, refuse_adapters, refuse_injected, refuse_pickles
from petune.model.sites import block_list

if TYPE_CHECKING:
    from petune.model.bodies import KeptBits

KINDS = {"Params4bit": "4bit", "Int8Params": "8bit"}
"""bitsandbytes' class of a packed weight -> the word for it."""
GROUP = 64
"""4-bit weights that share a scale. bitsandbytes 0.50.2 unpacks a weight wrongly on a CPU where a group runs over the
end of a row: the relative error is then twice that of the format or more, without a word."""
LOOSE = 5e-2
"""Logit difference that a merge is allowed where 8-bit inputs are rounded too (not on a CPU), for logits of size 1."""


def check_word(quantize: str) -> None:
    """Refuses what is no kind of quantisation, and a missing bitsandbytes.

    Raises:
        UnknownNameError: neither `"4bit"` nor `"8bit"`; the near one is suggested.
        BackboneError: bitsandbytes is not installed.
    """
    if quantize not in KINDS.values():
        raise unknown("quantization", quantize, KINDS.values())
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BackboneError(
            f"quantize={quantize!r} needs bitsandbytes, which is not installed.",
            expected="It comes with the extra 'quant'.",
            fix="Run: pip install 'petune[quant]'.",
        )
    # Where the processor has AVX512-BF16 it advises to install a kernel for a path that is never taken here.
    talker = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        import bitsandbytes  # noqa: F401
    finally:
        talker.setLevel(level)


def load(source: str, quantize: str | None) -> tuple[Any, frozenset[str], bool]:
    """Reads a base model, quantising it on the way, tensor by tensor.

    Args:
        quantize: `"4bit"`, `"8bit"`, or None: as it is stored.

    Returns:
        The model, the names that the checkpoint lacked, and whether it was quantised here: the files then hold the
        weights from before.

    Raises:
        BackboneError: a checkpoint that is stored quantised otherwise, without a linear map in its blocks, or whose
            weights are a pickle.
    """
    refuse_pickles(source)
    refuse_adapters(source)
    options = {} if quantize is None else _options(source, quantize)
    model, info = AutoModel.from_pretrained(source, output_loading_info=True, **SAFELY, **options)
    refuse_injected(model, source)
    missing = frozenset(info["missing_keys"]) - (_computed(model) if info["missing_keys"] else frozenset())
    # Of an architecture outside of the table nobody knows the blocks: what turns out to be a head is skipped.
    heads = [path for path, _ in packed(model) if f"{path}.weight" in missing]
    if heads and options:
        settings = options["quantization_config"]
        settings.llm_int8_skip_modules = [*settings.llm_int8_skip_modules, *map(re.escape, heads)]
        model, info = AutoModel.from_pretrained(source, output_loading_info=True, **SAFELY, **options)
    if quantize is not None and kind(model) != quantize:
        raise BackboneError(
            f"{source!r} has no linear map in its blocks that could be quantised to {quantize}.",
            expected=f"For 4 bits a map's inputs are a multiple of {GROUP} wide.",
            fix="Open it without quantize.",
        )
    return model, missing, bool(options)


def _computed(model: Any) -> frozenset[str]:
    """Parameters that an architecture computes and never learns (Marian's sines): no checkpoint need hold them."""
    with torch.device("meta"):
        plain = type(model)(model.config)
    return frozenset(name for name, parameter in plain.named_parameters() if not parameter.requires_grad)


def _options(source: str, quantize: str) -> dict[str, Any]:
    """What `from_pretrained` is told; nothing where the checkpoint is stored quantised like that."""
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        if dict(stored).get(f"load_in_{quantize}"):
            return {}
        raise BackboneError(
            f"The checkpoint {source!r} is stored quantised in another way.",
            expected=f"quantize={quantize!r} needs the weights as they were trained.",
            fix="Open it without quantize, or take the checkpoint from before it was quantised.",
        )
    settings = BitsAndBytesConfig(
        load_in_4bit=quantize == "4bit",
        load_in_8bit=quantize == "8bit",
        bnb_4bit_quant_type="nf4",
        # Products are made in the checkpoint's own type; any other one would be written into the biases.
        bnb_4bit_compute_dtype=getattr(config, "dtype", None) or torch.float32,
        llm_int8_skip_modules=[re.escape(path) for path in _kept(config, quantize)],
    )
    return {"quantization_config": settings}


def _kept(config: Any, quantize: str) -> list[str]:
    """The linear maps that stay as they are stored: those outside of the blocks, such as poolers and projections of
    embeddings, and for 4 bits those whose rows are no whole number of `GROUP` weights."""
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    linear = {path: widths(m)[0] for path, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    family = FAMILIES.get(config.model_type)
    blocks = tuple(f"{path}." for path, _ in block_list(model, family)) if family else ("",)
    return [p for p, d_in in linear.items() if not p.startswith(blocks) or (quantize == "4bit" and d_in % GROUP)]


def packed(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(path, module) of every quantised linear map; one that stands in several places comes with each."""
    modules = model.named_modules(remove_duplicate=False)
    return [(path, m) for path, m in modules if type(getattr(m, "weight", None)).__name__ in KINDS]


def kind(model: nn.Module) -> str | None:
    """`"4bit"`, `"8bit"`, or None for a model that is not quantised by bitsandbytes.

    Examples:
        >>> kind(nn.Linear(2, 2)) is None
        True
    """
    return next((KINDS[type(module.weight).__name__] for _, module in packed(model)), None)


def settle(model: nn.Module) -> None:
    """Makes a quantised model answer the same whatever ran before, and keep its bits.

    Three habits of bitsandbytes are turned off. 4 bits on a CPU with AVX512-BF16: the first forward in eval mode packs
    the weights anew, for products in bfloat16 that have no gradient. 8 bits on a CPU: eval mode also rounds the
    inputs, by statistics of the whole batch, and train mode does not. Both kinds: a bias takes the type of whatever
    comes in, for good.
    """
    for _, module in packed(model):
        weight: Any = module.weight
        bias: Any = module.bias
        layer: Any = module
        if KINDS[type(weight).__name__] == "4bit":
            if getattr(weight.quant_state, "packing_format_for_cpu", False):
                layer.state_dict()  # unpacks it
            layer.support_avx512bf16_for_cpu = False
            # No copy shall hold on to the module that it was made from, or to a second copy of its scales.
            weight.module, layer.quant_state = None, weight.quant_state
            if bias is not None and layer.compute_dtype is not None:
                bias.data = bias.data.to(layer.compute_dtype)
        else:
            if weight.device.type == "cpu" and not isinstance(type(layer.state).__dict__.get("is_training"), property):
                layer.state = _unrounded(layer.state)
            if bias is not None:  # no hook: whoever looks for strangers in a backbone would find it
                layer.forward = MethodType(_in_the_type_of_the_bias, layer)


def _unrounded(state: Any) -> Any:
    """The same state of an 8-bit map, which says at all times that it trains: inputs are then taken as they are."""
    made = _always_training(type(state))()  # type: ignore[arg-type]
    made.__dict__.update({name: value for name, value in state.__dict__.items() if name != "is_training"})
    return made


@functools.cache
def _always_training(state: type[Any]) -> type[Any]:
    always = property(lambda self: True, lambda self, value: None)
    return type(f"Unrounded{state.__name__}", (state,), {"is_training": always})


def _in_the_type_of_the_bias(module: nn.Module, x: Tensor) -> Tensor:
    """The forward of an 8-bit map: what comes in takes the type of the bias, or else the bias would take its."""
    made: Tensor = type(module).forward(module, x.to(module.bias.dtype))  # type: ignore[arg-type]
    return made


def statistics(model: nn.Module) -> list[tuple[str, Tensor]]:
    """(name, tensor) of the scales beside the packed weights: without them the codes say nothing."""
    found: list[tuple[str, Tensor]] = []
    for path, module in packed(model):
        layer: Any = module
        if KINDS[type(layer.weight).__name__] == "4bit":
            state = layer.weight.quant_state.as_dict(packed=True)
            found += [(f"{path}.weight.{name}", tensor) for name, tensor in state.items()]
        else:
            found.append((f"{path}.SCB", _scales(layer)))
    return found


def _scales(layer: Any) -> Tensor:
    """The largest of each row of an 8-bit weight; the first forward moves them from the weight to the state."""
    scales: Tensor = layer.weight.SCB if layer.weight.SCB is not None else layer.state.SCB
    return scales


@torch.no_grad()
def unpacked(module: nn.Module, dtype: torch.dtype) -> Tensor:
    """The weight (d_out, d_in) that a quantised linear map stands for."""
    layer: Any = module
    if KINDS[type(layer.weight).__name__] == "4bit":
        from bitsandbytes.functional import dequantize_4bit

        weight: Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return weight.to(dtype)
    # In the order in which bitsandbytes does it, so that the bits are those of its forward.
    return layer.weight.data.to(dtype).mul_(_scales(layer).unsqueeze(1).mul(1.0 / 127.0))  # type: ignore[no-any-return]


def dequantize(model: nn.Module, kept: KeptBits) -> None:
    """Puts plain modules with the same weights in the places of the quantised ones.

    Args:
        kept: notes the quantised modules, whose very bits it puts back.
    """
    found = packed(model)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    made = {id(module): module for _, module in found}
    made = {key: _plain(module, dtype) for key, module in made.items()}
    for path, module in found:
        kept.replace(model, path, made[id(module)])


def _plain(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module that a quantised linear map was made from: `nn.Linear`, or GPT-2's `Conv1D`."""
    layer: Any = module
    weight, turned = unpacked(module, dtype), was_transposed(module)
    with torch.device("meta"):
        sizes = (layer.out_features, layer.in_features) if turned else (layer.in_features, layer.out_features)
        made: Any = Conv1D(*sizes) if turned else nn.Linear(*sizes, bias=layer.bias is not None)
    made.weight = nn.Parameter(weight.T.contiguous() if turned else weight)
    made.bias = layer.bias
    return made.train(module.training)  # type: ignore[no-any-return]


def was_transposed(module: nn.Module) -> bool:
    """Whether a quantised map, which lies as (d_out, d_in), was made from one that lies the other way round."""
    return getattr(module, "source_cls", None) is Conv1D


def looseness(model: nn.Module, word: str | None) -> float:
    """The logit difference, for logits of size 1, that rounding of the inputs makes beyond that of the type."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    return LOOSE if word == "8bit" and not on_cpu else 0.0


def forget(config: Any) -> None:
    """Takes the note of quantisation off a configuration whose weights are plain."""
    config.__dict__.pop("quantization_config", None)


def count(model: nn.Module) -> int:
    """How many weights a model has; two of 4 bits lie in a byte."""
    whole: dict[int, int] = {id(m.weight): m.in_features * m.out_features for _, m in packed(model)}  # type: ignore
    return sum(whole.get(id(p), p.numel()) for p in model.parameters())
