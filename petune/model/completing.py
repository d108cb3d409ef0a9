"""A backbone that was cut short: a language model keeps its own without the parts that it does not use.

`BertForMaskedLM` holds a BERT without a pooler, as its checkpoint does. A classifier needs one, so it is made here, and
counts as missing from the checkpoint: every adapter then has its own. `T5ForConditionalGeneration` holds no base model
at all, but its parts.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import MODEL_MAPPING, PreTrainedModel

_made: WeakKeyDictionary[nn.Module, PreTrainedModel] = WeakKeyDictionary()
"""Two tuners that are given one model share one completed backbone."""


def base_of(model: PreTrainedModel) -> PreTrainedModel:
    """A model's base model; where its class keeps the parts of one side by side (T5), one around these parts."""
    base: PreTrainedModel = model.base_model
    kind = MODEL_MAPPING.get(type(model.config), None)
    if base is not model or not isinstance(kind, type) or isinstance(model, kind):
        return base
    if model not in _made:
        with torch.device("meta"):
            whole: PreTrainedModel = kind(model.config)
        if not whole._modules.keys() <= model._modules.keys():
            return base  # an encoder alone
        whole._modules.update({name: model._modules[name] for name in whole._modules})
        _made[model] = whole.train(model.training)
    return _made[model]


def completed(base: PreTrainedModel) -> tuple[PreTrainedModel, frozenset[str]]:
    """The backbone with all its parts, and the names of the parameters that had to be made.

    The given module is not touched: what is completed is another one around the same children. Torch's random
    numbers are as before.
    """
    empty = {name for name, value in (*base.__dict__.items(), *base._modules.items()) if value is None}
    if not empty:
        return base, frozenset()
    with torch.device("meta"):
        whole: PreTrainedModel = type(base)(base.config)
    absent = {name: part for name, part in whole._modules.items() if part is not None and name in empty}
    if not absent:
        return base, frozenset()
    missing = frozenset(f"{name}.{inner}" for name, part in absent.items() for inner, _ in part.named_parameters())
    if base not in _made:
        _made[base] = _around(base, whole, absent)
    return _made[base], missing


def _around(base: PreTrainedModel, whole: PreTrainedModel, absent: dict[str, nn.Module]) -> PreTrainedModel:
    """Puts the base's own children into `whole`, and gives memory and first weights to what it lacks."""
    with torch.random.fork_rng(devices=[]):
        for part in absent.values():
            part.to_empty(device=base.device).to(base.dtype)
            for module in part.modules():
                whole._init_weights(module)
            part.eval()
    kept = {name: value for name, value in base.__dict__.items() if value is not None and not isinstance(value, dict)}
    whole.__dict__.update(kept)
    whole._modules.update({name: module for name, module in base._modules.items() if name not in absent})
    whole._parameters.update(base._parameters)
    whole._buffers.update(base._buffers)
    return whole
