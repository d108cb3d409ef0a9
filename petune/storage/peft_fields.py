"""What the fields of peft's `adapter_config.json` mean to petune: read, harmless, for the long tail, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from petune.errors import AdapterFileError
from petune.lookup import near

Kind = Literal["lora", "adalora", "prefix", "peft"]

_EVERY = [
    "peft_type",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
]
_TARGETS = ["target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"]
_LORA = [
    "r",
    "lora_alpha",
    "lora_dropout",
    "fan_in_fan_out",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "bias",
    "init_lora_weights",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "monteclora_config",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
    "ensure_weight_tying",
]
_ADALORA = ["init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"]
_PREFIX = [
    "num_virtual_tokens",
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
    "encoder_hidden_size",
    "prefix_projection",
    "init_weights",
    "modules_to_save",
]
READ = {
    "LORA": {*_EVERY, *_TARGETS, *_LORA},
    "ADALORA": {*_EVERY, *_TARGETS, *_LORA, *_ADALORA},
    "PREFIX_TUNING": {*_EVERY, *_PREFIX},
}
"""Kind of adapter -> the fields that petune reads itself, or knows to be without effect on the result."""

LONG_TAIL = ("use_dora", "lora_bias")
"""Fields that change the computation, and that peft's own modules then do."""

_TEXT, _FLAG, _NAMES, _NUMBER = (str, type(None)), (bool, type(None)), (list, str, type(None)), (int, float, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    "task_type": _TEXT, "base_model_name_or_path": _TEXT, "bias": _TEXT, "auto_mapping": (dict, type(None)),
    "r": (int,), "lora_alpha": _NUMBER, "lora_dropout": _NUMBER, "init_r": (int, type(None)),
    "use_rslora": _FLAG, "fan_in_fan_out": _FLAG, "use_dora": _FLAG, "lora_bias": _FLAG,
    "rank_pattern": (dict, type(None)), "alpha_pattern": (dict, type(None)), "modules_to_save": (list, type(None)),
    "target_modules": _NAMES, "exclude_modules": _NAMES, "layers_pattern": _NAMES,
    "layers_to_transform": (list, int, type(None)),
}  # fmt: skip
"""Field -> its types in JSON, where petune or peft would otherwise read something else into it."""

REFUSED = {
    "layer_replication": "it copies and reorders the backbone's layers",
    "trainable_token_indices": "it changes rows of the backbone's embeddings",
    "target_parameters": "it rewrites bare parameters of the backbone",
    "megatron_config": "it needs a Megatron backbone",
    "alora_invocation_tokens": "it is active only after certain tokens, which needs peft's own generation",
    "use_qalora": "it needs a backbone quantised in groups",
    "arrow_config": "it routes between several adapters, which needs peft's own model",
    "kasa_config": "it rewrites the backbone's weights",
    "use_bdlora": "its factors are split in blocks",
}
_REWRITES = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica", "kasa", "milora")
_PROMPTS = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT", "SHADOW")


def kind_of(config: Mapping[str, Any], source: str) -> Kind:
    """Which of petune's methods an `adapter_config.json` is.

    Raises:
        AdapterFileError: for a field that changes the result and that petune cannot honour, with its name.
    """
    peft_type = config.get("peft_type")
    if not isinstance(peft_type, str):
        raise AdapterFileError(f"{source} names no peft_type.", expected="peft's adapter_config.json was expected.")
    if peft_type in _PROMPTS:
        raise AdapterFileError(
            f"{source} is of the kind {peft_type}, which lives in peft's own model.",
            expected="LORA, ADALORA, PREFIX_TUNING, or a kind that replaces modules (IA3, VERA, OFT ...).",
        )
    _check_types(config, source)
    _refuse(config, source)
    if peft_type not in READ:
        return "peft"
    tail = [name for name in LONG_TAIL if config.get(name)]
    for name, value in config.items():
        # None, False and {} are what a newer peft writes for a feature that is off.
        if name not in READ[peft_type] and name not in tail and value:
            raise AdapterFileError(
                f"{source} has {name}={value!r}, which petune does not know.",
                expected=f"The fields of {peft_type} as of peft 0.21.",
                fix=near(name, READ[peft_type]),
            )
    if tail and peft_type != "LORA":
        raise AdapterFileError(f"{source}: {tail[0]} does not go with {peft_type}.")
    kinds: dict[str, Kind] = {"LORA": "lora", "ADALORA": "adalora", "PREFIX_TUNING": "prefix"}
    return "peft" if tail else kinds[peft_type]


def _check_types(config: Mapping[str, Any], source: str) -> None:
    for field, types in _TYPES.items():
        if field in config and type(config[field]) not in types:
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            raise AdapterFileError(
                f"{source}: {field!r} is a {type(config[field]).__name__}.",
                expected=f"{names} was expected.",
                fix="Save the adapter again in peft.",
            )


def _refuse(config: Mapping[str, Any], source: str) -> None:
    for name, why in REFUSED.items():
        if config.get(name):
            raise AdapterFileError(f"{source} has {name}: {why}.", fix="Load this adapter with peft itself.")
    bias = config.get("bias", "none")
    if bias not in ("none", None):
        raise AdapterFileError(
            f"{source} has bias={bias!r}: it would overwrite the backbone's biases.",
            expected="bias='none'.",
            fix="Merge it with peft, and use the merged model as the backbone.",
        )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_REWRITES):
        raise AdapterFileError(
            f"{source} has init_lora_weights={start!r}: such an adapter fits only a rewritten backbone.",
            fix="Save it again in peft with path_initial_model_for_weight_conversion=...",
        )
