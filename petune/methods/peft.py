"""The long tail: any `peft.PeftConfig` (IA3, DoRA, VeRA, OFT ...) as a petune method.

peft replaces modules of the backbone, so such an adapter is alone on its model, and `remove` puts the very same
module objects back. peft costs seconds to import; it is imported when a configuration is given, not before.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from torch import nn

from petune.errors import ConfigError
from petune.knobs import knobs
from petune.lookup import near, unknown
from petune.methods._injection import ADAPTER, Injected, Made
from petune.methods._patterns import refuse_expressions, settle
from petune.methods.base import AdapterLayer, Method, Site

_UNFIT = {
    "ADALORA": ("nobody would call its rank allocator", "Use method='adalora', which really prunes."),
    "XLORA": ("it mixes adapters that are trained already", ""),
    "POLY": ("its forward needs task ids", ""),
    "SHADOW": ("it lives in a model of its own", ""),
    "ADAPTION_PROMPT": ("it replaces the forward of whole attention modules", "Use method='prefix'."),
    "OSF": ("it rewrites the backbone's weights", ""),
}
"""Kind -> (why it cannot be injected, what to do)."""
_FIELDS = {
    "modules_to_save": "the head is trained and saved by petune, and nothing else of the backbone is",
    "trainable_token_indices": "it changes rows of the backbone's embeddings",
    "layer_replication": "it copies and reorders the backbone's layers",
    "target_parameters": "it rewrites bare parameters of the backbone",
    "megatron_config": "it needs a Megatron backbone",
    "alora_invocation_tokens": "it needs peft's own generation",
    "arrow_config": "it routes between several adapters",
}
"""Field -> why a configuration with it is refused."""


@knobs
class Peft(Method):
    """Any peft configuration whose modules can be put into a model.

    Args:
        config: a `peft.PeftConfig`, or what `to_knobs` made of one. It is copied: peft changes the configurations
            that it works with. Where the adapter acts is said in it (`target_modules` ...).

    Raises:
        ConfigError: for a kind or a field that cannot work here, with the reason.

    Examples:
        >>> from peft import IA3Config
        >>> Peft(config=IA3Config(target_modules=["key"], feedforward_modules=[])).config.peft_type.value
        'IA3'
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2303.15647"
    mergeable: ClassVar[bool] = True
    residence: ClassVar[Literal["shared", "sole", "private"]] = "sole"

    config: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers != "all" or self.top is not None or self.modules:
            raise ConfigError(
                "Peft takes no layers, top or modules.",
                expected="Where a peft adapter acts is said in its configuration.",
                fix="Use target_modules and layers_to_transform in it.",
            )
        if self.config is not None:
            made = _config(self.config) if isinstance(self.config, Mapping) else copy.deepcopy(self.config)
            _check(made)
            object.__setattr__(self, "config", made)

    def roles(self) -> tuple[str, ...]:
        """None: the sites are those of the configuration."""
        return ()

    def layer(self, site: Site) -> AdapterLayer:
        raise ConfigError("A peft adapter has no layers of petune's kind.", fix="It is put in whole: inject(model).")

    def inject(self, root: nn.Module, exclude: Sequence[str] = ()) -> Injected:
        """Puts peft's modules into a model; only their parameters are trainable afterwards.

        Args:
            root: the backbone.
            exclude: module paths that stay as they are (head parts inside the backbone).

        Raises:
            ConfigError: no configuration, a target that matches nothing (with near names), or a kind that changes
                the backbone's own weights; the model is then as it was.
        """
        if self.config is None:
            raise ConfigError(
                "The method 'peft' needs a configuration.",
                expected="Any peft.PeftConfig that replaces modules.",
                fix="Pass method=peft.IA3Config(...) or Peft(config=peft.IA3Config(...)).",
            )
        return Injected(root, lambda: _made(root, copy.deepcopy(self.config), tuple(exclude)))

    def to_knobs(self) -> dict[str, Any]:
        """The knobs as JSON: the configuration's fields with their `peft_type`."""
        return {"config": None if self.config is None else _plain(self.config.to_dict())}

    @classmethod
    def from_knobs(cls, given: Mapping[str, Any]) -> Self:
        """The method of `to_knobs`, from a file.

        Raises:
            ConfigError: an unknown field that is set, or a regular expression: files hold names, because an
                expression from a file can hang.
        """
        config = given.get("config")
        refuse_expressions(config or {})
        return cls(config=config)


def _config(fields: Mapping[str, Any]) -> Any:
    """A peft configuration from its fields; a field that this peft does not know must be off."""
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {str(getattr(kind, "value", kind)): made for kind, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    kind = fields.get("peft_type")
    if kind not in kinds:
        raise unknown("peft_type", str(kind), kinds)
    known = {field.name for field in dataclasses.fields(kinds[kind]) if field.init}
    for name, value in fields.items():
        if name not in known and value:
            raise ConfigError(f"{kind} has no field {name!r} in the installed peft.", fix=near(name, known))
    return PeftConfig.from_peft_type(**{name: value for name, value in fields.items() if name in known})


def _check(config: Any) -> None:
    """Refuses what cannot be injected, or would touch the backbone's own weights."""
    from peft import PeftConfig

    if not isinstance(config, PeftConfig):
        raise ConfigError(f"config is a {type(config).__name__}.", expected="A peft.PeftConfig.")
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning:
        raise ConfigError(
            f"{kind} adds virtual tokens and shifts positions, so it cannot be put into a shared backbone.",
            fix="Use method='prefix'.",
        )
    if kind in _UNFIT:
        why, fix = _UNFIT[kind]
        raise ConfigError(f"{type(config).__name__} cannot be used here: {why}.", fix=fix)
    for field, why in _FIELDS.items():
        if getattr(config, field, None):
            raise ConfigError(f"{type(config).__name__}({field}=...) cannot be used here: {why}.")
    if getattr(config, "bias", "none") not in ("none", None):
        raise ConfigError(f"bias={config.bias!r} trains the backbone's biases.", expected="bias='none'.")


def _plain(value: Any) -> Any:
    """JSON: sets sorted to lists, enumerations as their values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)


def _made(root: nn.Module, config: Any, exclude: tuple[str, ...]) -> Made:
    """Puts peft's modules into `root`."""
    from peft.tuners.tuners_utils import cast_adapter_dtype

    expanded = settle(config, root)
    asked = copy.deepcopy(config)
    config.task_type, config.inference_mode, config.modules_to_save = None, False, None
    if exclude and hasattr(config, "exclude_modules") and not isinstance(config.exclude_modules, str):
        config.exclude_modules = {*(config.exclude_modules or ()), *exclude}
    before = None if _leaves_weights_alone(config) else [(p, p.detach().clone()) for p in root.parameters()]
    tuner = _tuner(root, config, expanded)
    cast_adapter_dtype(root, adapter_name=ADAPTER, autocast_adapter_dtype=True)  # half-precision adapters learn badly
    _check_weights(before, config)
    paths = list(dict.fromkeys(tuner.targeted_module_names))
    layers = {path: root.get_submodule(path) for path in paths}
    _check_targets(asked, paths, root)
    return Made(
        tuner=tuner,
        layers=layers,
        export=_exported(tuner),
        merge=lambda: tuner.merge_adapter(safe_merge=True),
        method=_resolved(asked, layers),
    )


def _tuner(root: nn.Module, config: Any, expanded: bool) -> Any:
    """peft's tuner around `root`. `inject_adapter_in_model` would drop it, and with it what VeRA's layers share."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    try:
        with warnings.catch_warnings():
            # Said of every GPT-2, of exclusions that hit nothing, of LN tuning's own layers: nothing to act on.
            warnings.filterwarnings("ignore", message=".*fan_in_fan_out is set to.*")
            warnings.filterwarnings("ignore", message=".*no modules were excluded.*")
            warnings.filterwarnings("ignore", message="Unsupported layer type.*LayerNorm.*")
            if expanded:  # an expression's modules need not all be targets
                warnings.filterwarnings("ignore", message="The following .*_pattern keys did not match")
            return PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](root, config, adapter_name=ADAPTER)
    except ValueError as error:  # peft's NoMatchingPeftModuleError is one
        names = _linear_names(root)
        targets = config.target_modules if isinstance(config.target_modules, list | set | tuple) else ()
        fix = near(min(targets), names) if targets else f"Set target_modules, for instance to {names[:8]}."
        raise ConfigError(f"peft found no place for {type(config).__name__}: {error}", fix=fix) from error


def _check_targets(asked: Any, paths: list[str], root: nn.Module) -> None:
    """Each target that was named must be there; peft passes over those that are not."""
    targets = asked.target_modules
    for target in targets if isinstance(targets, list | set | tuple) else ():
        if not any(f".{path}".endswith(f".{target}") for path in paths):
            raise ConfigError(f"The target {target!r} matches no module.", fix=near(target, _linear_names(root)))


def _leaves_weights_alone(config: Any) -> bool:
    """Kinds that are known not to write into the backbone; all others are watched while they are put in."""
    known = ("LORA", "IA3", "VERA", "OFT", "BOFT", "LOHA", "LOKR", "HRA", "LN_TUNING", "FOURIERFT")
    return config.peft_type.value in known and not isinstance(getattr(config, "init_lora_weights", True), str)


def _check_weights(before: list[tuple[nn.Parameter, torch.Tensor]] | None, config: Any) -> None:
    """Gives the backbone its bits back when peft changed them, and refuses."""
    changed = False
    for parameter, bits in before or ():
        if parameter.shape != bits.shape or not torch.equal(parameter, bits):
            parameter.data, changed = bits, True
    if changed:
        raise ConfigError(
            f"{type(config).__name__} rewrites the backbone's own weights when it is put in.",
            expected="A backbone that is borrowed, and stays as it is.",
            fix="Take another init_lora_weights, or another method.",
        )


def _exported(tuner: Any) -> dict[tuple[int, tuple[int, ...]], str]:
    """(address, shape) -> name in peft's file format, relative to the tuner."""
    from peft import get_peft_model_state_dict

    holder = nn.Module()
    holder.base_model, holder.peft_config = tuner, tuner.peft_config
    state = get_peft_model_state_dict(holder, adapter_name=ADAPTER, save_embedding_layers=False)
    return {
        (tensor.data_ptr(), tuple(tensor.shape)): name.removeprefix("base_model.")
        for name, tensor in state.items()
        if tensor.numel()
    }


def _resolved(asked: Any, layers: Mapping[str, Any]) -> Peft:
    """The method with paths in place of patterns, defaults and `all-linear`."""
    made = copy.deepcopy(asked)
    made.target_modules = sorted(layers)
    if hasattr(made, "feedforward_modules"):
        made.feedforward_modules = sorted(path for path, layer in layers.items() if layer.is_feedforward)
    for field in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        if hasattr(made, field):
            setattr(made, field, None)
    return Peft(config=made)


def _linear_names(root: nn.Module) -> list[str]:
    """Last parts of the paths of linear maps: what `target_modules` usually names."""
    found = (name for name, module in root.named_modules() if hasattr(module, "in_features") or hasattr(module, "nx"))
    return sorted({name.rsplit(".", 1)[-1] for name in found})
