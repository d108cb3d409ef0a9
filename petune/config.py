"""`TrainConfig`: every knob of fitting. Method knobs live in the method, text knobs in the task."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from petune.errors import ConfigError
from petune.knobs import check, knobs
from petune.lookup import near

T = TypeVar("T")
DEFAULT_ROWS = 16
"""Rows per device and forward."""


@knobs
class TrainConfig:
    """How an adapter is fitted.

    Args:
        output_dir: where checkpoints and `history.jsonl` go; None: nothing touches the disk before `save`.
        epochs: passes over the training rows.
        batch_size: rows per device and forward. `"auto"`: found out once, as many as fit into the memory; a step still
            has 16 * `gradient_accumulation_steps` rows per device, in more forwards if need be.
        gradient_accumulation_steps: forwards per optimizer step.
        learning_rate: the peak; None takes the method's own sensible default.
        optimizer: `"adamw"` or `"sgd"`.
        weight_decay: never applied to biases and norms.
        momentum: of SGD.
        lr_scheduler: `"linear"`, `"cosine"` or `"constant"`, all after the warm-up.
        warmup_ratio: share of the optimizer steps over which the rate rises from 0.
        max_grad_norm: gradients are clipped to this norm; 0 turns clipping off.
        label_smoothing: in [0, 1).
        class_weight: `"balanced"`, or label -> weight, or None.
        metric: the figure of the evaluation that picks the best adapter and stops early; None takes the task's own.
        metrics: further metrics to compute: names, `evaluate` objects or functions `(y_true, y_pred) -> float | dict`.
        greater_is_better: whether a larger `metric` is better; None knows the own metrics (`"loss"`, `"mae"`: smaller).
        patience: evaluations without improvement before the run stops; None never stops early.
        keep_best: end with the best adapter of the run instead of the last (needs eval data).
        seed: of the adapter's first weights, the order of rows and dropout.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`.
        gradient_checkpointing: recompute activations in the backward pass.
        backbone_dropout: whether the adapted blocks use the backbone's own dropout.
        group_by_length: batches of rows of similar length (seeded shuffle), so little is padded.
        max_tokens: padded positions per device and forward; `batch_size` is then the most rows there may be. None: any.
        padding_free: whether the blocks leave padding out, which changes no loss and no gradient. `"auto"`: where the
            backbone and the method allow it and a batch pads enough for it to pay; True: or tell why not; False: never.
        compile: whether the blocks that learn run through `torch.compile`, each with its adapter layers as one graph;
            the first steps then take long, and every new shape of a batch as well.
        sharding: `"fsdp2"`: among several processes each keeps a share of the frozen weights, and blocks are whole only
            while they run; None: each keeps all of them.
        trim_last_block: compute only what the head reads of the last block, where it reads the first position (a
            classifier of BERT's kind): the same losses for less.
        cache_trunk: whether what the frozen blocks below the lowest adapter make of each row is computed once and kept.
            `"auto"`: where that saves work and it fits; True: or tell why it cannot be; False: never.
        cache_dir: a folder for what does not fit into memory, which runs on the same backbone may share; None: a
            temporary one.
        cache_bytes: of memory that the kept rows may take before they go to a file; None: a quarter of what is free.
        save_every: optimizer steps between checkpoints (needs output_dir).
        keep_last: checkpoints to keep.
        process_timeout: seconds that the processes of one run wait for each other before one of them counts as lost.
        progress: `"auto"` (bar on a terminal, else a plain line every few seconds), or `"off"`.
        log_with: trackers that the run is told to, by Accelerate's names: `"tensorboard"` (writes into output_dir),
            `"wandb"`, `"mlflow"` ..., or several; None: nobody, and nothing leaves this machine.

    Raises:
        ConfigError: for a knob out of range or a contradiction.

    Examples:
        >>> TrainConfig(epochs=2).epochs
        2
    """

    output_dir: str | Path | None = None
    epochs: int = 3
    batch_size: int | Literal["auto"] = DEFAULT_ROWS
    gradient_accumulation_steps: int = 1
    learning_rate: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.01
    momentum: float = 0.0
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = 0.06
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    class_weight: Literal["balanced"] | dict[str, float] | None = None
    metric: str | None = None
    metrics: tuple[Any, ...] = ()
    greater_is_better: bool | None = None
    patience: int | None = None
    keep_best: bool = True
    seed: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False
    backbone_dropout: bool = True
    group_by_length: bool = True
    max_tokens: int | None = None
    padding_free: bool | Literal["auto"] = "auto"
    compile: bool = False
    sharding: Literal["fsdp2"] | None = None
    trim_last_block: bool = True
    cache_trunk: bool | Literal["auto"] = "auto"
    cache_dir: str | Path | None = None
    cache_bytes: int | None = None
    save_every: int | None = None
    keep_last: int = 2
    process_timeout: float = 600.0
    progress: Literal["auto", "off"] = "auto"
    log_with: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "gradient_accumulation_steps", "keep_last"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check(self.rows >= 1, "batch_size", self.batch_size, "at least 1")
        for name in ("patience", "save_every", "max_tokens"):
            check(
                getattr(self, name) is None or getattr(self, name) >= 1, name, getattr(self, name), "None or at least 1"
            )
        check(self.cache_bytes is None or self.cache_bytes >= 0, "cache_bytes", self.cache_bytes, "None, or 0 or more")
        check(self.process_timeout > 0, "process_timeout", self.process_timeout, "positive")
        rate = self.learning_rate
        check(rate is None or 0 < rate < math.inf, "learning_rate", rate, "positive and finite")
        for name in ("label_smoothing", "warmup_ratio", "momentum"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        for name in ("weight_decay", "max_grad_norm"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        if self.save_every is not None and self.output_dir is None:
            raise ConfigError(
                f"save_every={self.save_every} was given without output_dir.",
                expected="Checkpoints need a folder.",
                fix="Pass output_dir=..., or drop save_every.",
            )
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        """Raises ConfigError for knobs that cannot both be kept."""
        for name in ("gradient_checkpointing", "padding_free"):
            if self.compile and getattr(self, name) is True:
                raise ConfigError(
                    f"compile=True and {name}=True contradict each other.",
                    expected="Blocks that are recomputed, or whose rows are packed, run as they are.",
                    fix="Give one of the two.",
                )
        if self.max_tokens is not None and self.batch_size == "auto":
            raise ConfigError(
                f"batch_size='auto' and max_tokens={self.max_tokens} both say how much a forward holds.",
                expected="With a budget of tokens, batch_size is the most rows of a forward.",
                fix="Give one of the two.",
            )

    @property
    def rows(self) -> int:
        """The most rows per device and forward; `"auto"` begins with as many as there are by default."""
        return DEFAULT_ROWS if self.batch_size == "auto" else self.batch_size


def as_config(config: TrainConfig | None) -> TrainConfig:
    """The configuration, or the defaults for None.

    Raises:
        ConfigError: something else, such as a dict.

    Examples:
        >>> as_config(None).epochs
        3
    """
    if config is None or isinstance(config, TrainConfig):
        return config or TrainConfig()
    raise ConfigError(
        f"config={config!r} is a {type(config).__name__}.",
        expected="A TrainConfig was expected.",
        fix=f"Pass config=TrainConfig({'**' if isinstance(config, Mapping) else 'epochs=3, '}...).",
    )


def near_keywords(cls: type[T]) -> type[T]:
    """Lets the public methods of a class answer an unknown keyword with the nearest known one; signatures stay.

    A keyword that is a knob of `TrainConfig` is sent there. (doctest does not look into what is wrapped: examples of
    such a class stand in its own docstring.)

    Examples:
        >>> @near_keywords
        ... class Kettle:
        ...     def boil(self, *, litres=1.0):
        ...         return litres
        >>> Kettle().boil(liters=2)
        Traceback (most recent call last):
        petune.errors.ConfigError: Kettle.boil takes no 'liters'. Did you mean 'litres'?
    """
    for name, method in list(vars(cls).items()):
        function = method.__func__ if isinstance(method, classmethod) else method
        if inspect.isfunction(function) and (name in ("__init__", "__call__") or not name.startswith("_")):
            setattr(cls, name, classmethod(_checked(function)) if function is not method else _checked(function))
    return cls


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with names in place of Python's TypeError; itself where it takes any keyword."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return function
    known = [name for name in parameters if name not in ("self", "cls")]

    @functools.wraps(function)
    def checked(*args: Any, **given: Any) -> Any:
        for name in given.keys() - parameters.keys():
            knob = "config" in known and name in TrainConfig.__dataclass_fields__
            fix = f"Pass config=TrainConfig({name}=...)." if knob else near(name, known)
            raise ConfigError(f"{function.__qualname__.removesuffix('.__init__')} takes no {name!r}.", fix=fix)
        return function(*args, **given)

    return checked
