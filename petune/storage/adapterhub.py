"""The layout of the `adapters` library (AdapterHub): what lies where, for what petune computes as well.

| file | holds |
|---|---|
| `adapter_config.json` | `config` (the method's fields), `model_type`, `model_class`, `name`, `version` |
| `adapter.safetensors` | the tensors, by their paths in that library's model |
| `head_config.json` | `config` of a flexible head, or null and `label2id` for the head of a transformers class |
| `model_head.safetensors` | the head's tensors |

A bottleneck at a sub-block's output is `<block>.attention.output.adapters.<name>` and `<block>.output.adapters.<name>`;
a LoRA lies at its linear map, `<map>.loras.<name>`. Sources: https://github.com/adapter-hub/adapters,
src/adapters/loading.py, methods/bottleneck.py, methods/modeling.py, methods/lora.py.
"""

from __future__ import annotations

from typing import Any

CONFIG, WEIGHTS = "adapter_config.json", "adapter.safetensors"
HEAD_CONFIG, HEAD_WEIGHTS = "head_config.json", "model_head.safetensors"
PICKLES = ("pytorch_adapter.bin", "pytorch_model_head.bin")

PREFIXES = {"bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta", "electra": "electra"}
"""Architectures of BERT's kind, in which both libraries act at the same places -> the backbone's place in a shell."""
CLASSES = {
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
}
"""Task -> transformers' table of its model classes."""
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "silu": "swish", "tanh": "tanh"}
"""petune's name of an activation -> theirs."""
ATTENTION, OUTPUT = "attention.output.dense", "output.dense"
"""The last maps of the two sub-blocks of a block, where a bottleneck acts."""
STYLES = {
    "houlsby": {"mh_adapter": True, "output_adapter": True, "is_parallel": False},
    "pfeiffer": {"mh_adapter": False, "output_adapter": True, "is_parallel": False},
    "parallel": {"mh_adapter": False, "output_adapter": True, "is_parallel": True},
}
"""petune's style -> the fields that say it."""
PLAIN: dict[str, Any] = {
    "original_ln_before": False,
    "original_ln_after": True,
    "ln_before": False,
    "ln_after": False,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "use_gating": False,
    "inv_adapter": None,
    "cross_adapter": False,
    "phm_layer": False,
    "stochastic_depth": 0.0,
}
"""The fields of a bottleneck with the values that petune's has; another value is another network."""
MAPS = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "intermediate.dense": "intermediate_lora",
    "output.dense": "output_lora",
}
"""The linear maps at which that library's LoRA can act -> the matrix in `attn_matrices`, or the field, that says so."""
BLOCK = "encoder.layer"


def split_site(path: str) -> tuple[int, str] | None:
    """(block, path inside it) of a site of BERT's kind; None for any other.

    Examples:
        >>> split_site("encoder.layer.3.output.dense"), split_site("pooler.dense")
        ((3, 'output.dense'), None)
    """
    head, _, rest = path.removeprefix(f"{BLOCK}.").partition(".")
    return (int(head), rest) if path.startswith(f"{BLOCK}.") and head.isdigit() and rest else None
