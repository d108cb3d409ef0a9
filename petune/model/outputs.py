"""Around the base model of a language model: the `lm_head` and what else its checkpoint holds there.

These weights were pretrained with the base model, so they belong to the backbone: every shell of the class shares
them, nobody trains or saves them. Only what the checkpoint lacks is a head. They are read when a task first needs
them: a classifier on a language model's checkpoint never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from petune.errors import BackboneError
from petune.model.backbone import Backbone, quiet


class Outputs(NamedTuple):
    """What belongs to the backbone around its base model.

    Args:
        modules: child of the language model -> the shared module.
        buffers: buffers of the language model itself (BART's `final_logits_bias`).
        untied: the parameters that are no other name of one in the base model.
        generation: the checkpoint's own settings for generating.
    """

    modules: dict[str, nn.Module]
    buffers: dict[str, Tensor]
    untied: dict[str, Tensor]
    generation: GenerationConfig | None


NONE = Outputs({}, {}, {}, None)


def outputs_of(backbone: Backbone, model: PreTrainedModel) -> Outputs:
    """What of a shell's model, around its base model, is the backbone's; nothing for tasks other than language models.

    Args:
        model: of the shell, on meta, its base model not yet shared.

    Raises:
        BackboneError: the checkpoint holds only a part of a module there, or cannot be read any more.
    """
    if model.get_output_embeddings() is None:
        return NONE
    if type(model) not in backbone.outputs:
        backbone.outputs[type(model)] = _found(backbone, model)
    found: Outputs = backbone.outputs[type(model)]
    return found


def around(model: PreTrainedModel, base: nn.Module) -> dict[str, nn.Module]:
    """The children with weights of a model that are no part of its base model."""
    own = model.base_model
    inside = set(base._modules) if own is model else {model.base_model_prefix}
    children = {name: child for name, child in model.named_children() if name not in inside}
    return {name: child for name, child in children.items() if next(child.parameters(), None) is not None}


def _found(backbone: Backbone, model: PreTrainedModel) -> Outputs:
    """Looks for every weight: in the model that was handed over or in the checkpoint, else among the ties."""
    source = backbone.given if backbone.given is not None else _read(backbone, model)
    held: dict[str, Tensor] = dict(source.named_parameters(remove_duplicate=False))
    if backbone.given is None:
        held = {name: held[name] for name in held.keys() - source._petune_missing}  # type: ignore[operator]
    inside = {id(p) for p in backbone.model.parameters()}
    modules: dict[str, nn.Module] = {}
    untied: dict[str, Tensor] = {}
    for name, child in around(model, backbone.model).items():
        wanted = dict(child.named_parameters())
        weights = {key: _weight(f"{name}.{key}", meta, held, model, backbone) for key, meta in wanted.items()}
        there = {key: weight for key, weight in weights.items() if weight is not None}
        if len(there) == len(weights):
            same = backbone.given is not None and all(held.get(f"{name}.{k}") is w for k, w in there.items())
            modules[name] = source.get_submodule(name) if same else _filled(child, there)
            untied |= {f"{name}.{key}": weight for key, weight in there.items() if id(weight) not in inside}
        elif there:
            lacking = next(key for key in weights if key not in there)
            raise BackboneError(
                f"The backbone {backbone.source!r} has no weight {name}.{lacking}, but others of {name}.",
                expected=f"A {type(model).__name__} has all of them, or none.",
                fix="Load a checkpoint that was saved with its language modelling head.",
            )
    buffers = {name: b for name, b in source._buffers.items() if b is not None and name in model._buffers}
    return Outputs(modules, buffers, untied, _generation(source))


def _weight(
    name: str, meta: Tensor, held: Mapping[str, Tensor], model: PreTrainedModel, backbone: Backbone
) -> Tensor | None:
    """One weight by its name in the model: the checkpoint's own, or the one in the base model that it is tied to."""
    own = held.get(name)
    own = own if own is not None and own.shape == meta.shape else None
    tied = (model.all_tied_weights_keys or {}).get(name)
    if tied is None:
        return own
    other = backbone.model.get_parameter(tied.removeprefix(f"{model.base_model_prefix}."))
    # As transformers does: another weight in the checkpoint counts more than what the configuration says (T5 1.1).
    return other if own is None or torch.equal(own, other) else own


def _filled(child: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The module on meta with these weights in their places; a bias of BERT's kind of head has two of them."""
    own = {id(child.get_parameter(key)): weight for key, weight in weights.items()}
    for key, meta in list(child.named_parameters(remove_duplicate=False)):
        path, _, short = key.rpartition(".")
        child.get_submodule(path)._parameters[short] = own[id(meta)]  # type: ignore[assignment]
    return child


def _generation(source: PreTrainedModel) -> GenerationConfig | None:
    found = getattr(source, "generation_config", None)
    return found if isinstance(found, GenerationConfig) else None


def _read(backbone: Backbone, model: PreTrainedModel) -> PreTrainedModel:
    """Reads what lies around the base model, and nothing of the base model; torch's random numbers are as before."""
    kind: Any = type(model)
    inside = list(backbone.model._modules) if model.base_model is model else [model.base_model_prefix]

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        for name in inside:
            self._modules[name] = nn.Module()
        self.all_tied_weights_keys = {}

    def zero(self: Any, module: nn.Module) -> None:
        """What the checkpoint lacks is no business of this class, but for buffers."""
        for buffer in module._buffers.values():
            if buffer is not None and not getattr(buffer, "_is_hf_initialized", False):
                buffer.zero_()

    # A class whose instances hold nothing else: from_pretrained then leaves all other tensors in their files.
    rim: Any = type(kind.__name__, (kind,), {"__init__": init, "_init_weights": zero, "__module__": kind.__module__})
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            found, info = rim.from_pretrained(
                backbone.source,
                config=model.config,
                dtype=backbone.dtype,
                output_loading_info=True,
                use_safetensors=True,
            )
    except Exception as error:  # whatever a loader of files from elsewhere may raise
        raise BackboneError(
            f"The language modelling head of {backbone.source!r} could not be read: {error}",
            expected="The checkpoint is still where the backbone came from.",
            fix="Put it back, or pass a model loaded with its language modelling head.",
        ) from error
    found._petune_missing = set(info["missing_keys"])
    made: PreTrainedModel = found.to(backbone.device)
    return made
