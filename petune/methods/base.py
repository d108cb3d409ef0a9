"""The contract of a method: which sites it wants, and the small layer it puts there.

Shape letters, everywhere in petune: `B` batch, `T` tokens, `D` width, `R` rank, `M` bottleneck, `P` prefix,
`H` heads, `K` head size, `C` classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from petune.errors import ConfigError
from petune.knobs import check, knobs
from petune.lookup import find
from petune.methods._stacking import Own


class Site(NamedTuple):
    """One place in the backbone where a layer acts: it sees the input of one module and the output of another.

    Usually both are the same module. `kind` says how the layer is called there: `"output"` layers get
    `(x, y)` and return a new `y`; `"attention"` layers get the heads' keys and values and return longer ones;
    `"rows"` layers act at the table of pieces, and are asked first to hide their own pieces from it.
    """

    path: str
    """The name inside the backbone, such as `encoder.layer.0.attention.self.query`."""
    role: str
    block: int
    """The index in the family's ordered list of blocks; -1 outside of any block."""
    input: nn.Module
    output: nn.Module
    kind: Literal["output", "attention", "rows"] = "output"
    heads: int = 0
    """`H`, the number of key/value heads (attention sites only)."""
    head_size: int = 0
    """`K` (attention sites only)."""

    @property
    def d_in(self) -> int:
        """Width of the input module's input."""
        return widths(self.input)[0]

    @property
    def d_out(self) -> int:
        """Width of the output module's output."""
        return widths(self.output)[1]

    @property
    def transposed(self) -> bool:
        """Whether the output module keeps its weight as (d_in, d_out), as GPT-2's `Conv1D` does."""
        return type(self.output).__name__ == "Conv1D"


def widths(module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a linear-like module, `nn.Linear` or transformers' `Conv1D`.

    Raises:
        ConfigError: when the module has no such shape.
    """
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    if hasattr(module, "nx"):
        return int(module.nx), int(module.nf)  # type: ignore[arg-type]
    raise ConfigError(
        f"A {type(module).__name__} has no input and output width.",
        expected="Adapter layers act on nn.Linear or Conv1D modules.",
        fix="Name linear modules.",
    )


class Progress(NamedTuple):
    """Where the run is: `step` optimizer steps are done out of `total`."""

    step: int
    total: int


class AdapterLayer(nn.Module, ABC):
    """The small trainable module at one site; it knows neither names, files nor other sites.

    A layer whose adapters shall share one forward names its tensors in `inner` and states its arithmetic in
    `routed`, to which `forward` then hands its own weights (see `petune.methods._stacking`). Without that, a batch with
    several adapters calls each adapter's layer on its own rows.
    """

    inner: ClassVar[Mapping[str, int | None]] = {}
    """Short name -> the axis of the inner size (R, M, P), along which narrower layers are padded; None: there is none.
    The names are those of `tensors()`. Empty: such layers are not stacked."""
    scale: float = 1.0
    """The factor on the layer's change."""
    options: tuple[Any, ...] = ()
    """What layers must have in common to share a stack (an activation)."""

    @abstractmethod
    def forward(self, x: Any, y: Any) -> Any:
        """`"output"` sites: x (..., d_in), y (..., d_out) -> the new y.

        `"attention"` sites: x = keys, y = values, each (B, H, T, K) -> the longer pair.
        """

    @staticmethod
    def routed(own: Own, x: Any, y: Any) -> Any:
        """What `forward` does, with the weights given: pure, and each row by its own weights.

        Args:
            own: weights of one adapter, or of one per row.
            x, y: as for `forward`, (B, T, d_in) and (B, T, d_out) at `"output"` sites. y may be written over.
        """
        raise NotImplementedError("layers that name inner tensors have their own")

    def tensors(self) -> dict[str, Tensor]:
        """What is saved, by short name. Everything the layer computes with is in here."""
        return dict(self.state_dict())

    def own(self, dropout: float = 0.0) -> Own:
        """This layer's parameters, for `routed`, and the share of values that it drops now."""
        parameters = dict(self.named_parameters())
        tensors = {name: parameters[name].mT if axis == 1 else parameters[name] for name, axis in self.inner.items()}
        return Own(tensors, self.scale, self.options, dropout)

    def delta(self) -> Tensor:
        """The weight change (d_out, d_in), only where the method is mergeable.

        Raises:
            ConfigError: for a method that has no weight change.
        """
        raise ConfigError(f"{type(self).__name__} has no weight change.", expected="Only mergeable methods have one.")

    def folded(self) -> AdapterLayer:
        """The layer to keep once training is over; AdaLoRA folds itself into a plain LoRA."""
        return self


Layers = Mapping[str, AdapterLayer]
"""Site path -> layer, in the order of the backbone."""


@knobs
class Method(ABC):
    """A recipe. Leaves are frozen dataclasses that can be constructed with no arguments.

    Args:
        layers: `"all"` blocks, or the explicit block indices.
        top: only the last `top` blocks (excludes `layers`).
        modules: your own module names (full paths, or endings such as `"q_proj"`) in place of the roles.
    """

    paper: ClassVar[str] = ""
    mergeable: ClassVar[bool] = False
    identity_at_start: ClassVar[bool] = True
    """Whether a fresh adapter leaves the backbone's output as it is."""
    learning_rate: ClassVar[float] = 1e-3
    """The peak learning rate used when `TrainConfig.learning_rate` is None."""
    residence: ClassVar[Literal["shared", "sole", "private"]] = "shared"
    """`shared`: many on one backbone. `sole`: replaces modules, so it must be alone. `private`: trains a copy of it."""

    layers: Literal["all"] | tuple[int, ...] = "all"
    top: int | None = None
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self.top is None or self.top >= 1, "top", self.top, "None or at least 1")
        if self.top is not None and self.layers != "all":
            raise ConfigError(
                f"top={self.top} and layers={self.layers!r} contradict each other.", fix="Give one of the two."
            )

    @abstractmethod
    def roles(self) -> tuple[str, ...]:
        """The roles in the architecture table where this method acts, such as `("query", "value")`."""

    def positions(self) -> int:
        """How many positions of each row its adapters take (soft prompts)."""
        return 0

    def named_sites(self) -> tuple[str, ...]:
        """Site paths that knobs speak of; one that is no site of this method is refused, not passed over."""
        return ()

    @abstractmethod
    def layer(self, site: Site) -> AdapterLayer:
        """A fresh layer for one site; its first effect is the identity."""

    def penalty(self, layers: Layers) -> Tensor | None:
        """An extra loss term (AdaLoRA: orthogonality), or None."""
        return None

    def after_step(self, layers: Layers, progress: Progress) -> None:
        """Called after every step with its gradients, or with none where fp16 skipped it (AdaLoRA: the budget)."""

    def folded(self, layers: Layers) -> Method:
        """The method that the layers are once training is over (AdaLoRA: a LoRA with a rank per site)."""
        return self


def as_method(method: Any) -> Method:
    """A method by name, as it is, or around a `peft.PeftConfig`.

    Raises:
        UnknownNameError: no such method.
        ConfigError: something that is no method.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str):
        return find("methods", method)()  # type: ignore[no-any-return]
    if hasattr(method, "peft_type"):
        return find("methods", "peft")(config=method)  # type: ignore[no-any-return]
    raise ConfigError(
        f"{method!r} is no method.", expected="A method is a name, a petune method or a peft.PeftConfig instance."
    )


CONTRACT = Method
