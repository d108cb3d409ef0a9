"""`merge_adapters` and `negate`: adapters of one backbone into one. The algebra is in `petune.model.combining`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from transformers import PreTrainedModel

from petune.data.preparing import tell
from petune.data.tokenizers import open_tokenizer
from petune.errors import AdapterError, AdapterFileError, ConfigError, MergeError
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.combining.assembling import Combination, combine, refuse
from petune.model.combining.report import CombinationReport
from petune.model.combining.ways import Recipe
from petune.residents import adapter_of
from petune.storage import shelf
from petune.storage.full_model import is_full_model
from petune.storage.names import check_name
from petune.storage.packing import check_backbone, pack
from petune.training.fitting import reside
from petune.tuner import Tuner


class _Source(NamedTuple):
    """One adapter that goes in, and the tokenizer that it came with."""

    adapter: Adapter
    tokenizer: Any


def merge_adapters(
    adapters: Sequence[str | Path | Adapter | Tuner],
    weights: Sequence[float] | None = None,
    how: str = "linear",
    *,
    rank: int | None = None,
    density: float | None = None,
    majority_sign: Literal["total", "frequency"] | None = None,
    seed: int = 0,
    head: str | int | None = None,
    name: str = "merged",
    backbone: str | Path | PreTrainedModel | None = None,
    tokenizer: Any = None,
) -> Tuner:
    """Merges adapters of one backbone into one LoRA adapter, by their weight changes Δᵢ = sᵢ Bᵢ Aᵢ.

    Each product is taken as a whole, whatever the rank, alpha or rsLoRA of its adapter; a site that an adapter lacks
    counts as zero. `petune.model.combining.ways` has the formulas and papers.

    Args:
        adapters: fitted Tuners, their adapters, or saved folders (petune's or peft's): LoRA, AdaLoRA and head, in any
            mixture of ranks and sites.
        weights: one per adapter, of any sign; None: 1 / n each, but 1 for `task_arithmetic`, `ties` and `dare_ties`.
        how: `"linear"`, `"task_arithmetic"`, `"cat"` (all exact), `"svd"`, `"ties"`, `"dare_linear"`, `"dare_ties"` or
            `"magnitude_prune"`.
        rank: the largest rank at a site; None: what exactness needs, and for the last five ways the largest rank that
            goes in there.
        density: the share of entries that `ties` (0.2), `dare_*` and `magnitude_prune` (0.5) keep.
        majority_sign: how the two ties elect signs: by the sum of the entries (the default) or by their number.
        seed: of the two dares.
        head: a name, or a place in the list: keeps that adapter's head, task and labels. None: the weighted mean
            Σ wᵢ hᵢ / Σ wᵢ of heads that have the same task and labels.
        name: of the result.
        backbone: None takes that of the first Tuner or adapter, else the one that the first folder recorded.
        tokenizer: None takes the one that came with the adapter whose task is kept.

    Returns:
        A Tuner that holds an ordinary LoRA adapter: it saves, predicts, merges and is added like any other. Its
        `report` is a `CombinationReport`, with the ranks and the error of compression at each site.

    Raises:
        UnknownNameError: no such way, or no adapter of the name in `head`.
        ConfigError: weights or knobs that cannot be meant.
        AdapterFileError: a wrong file, or an adapter of another backbone.
        AdapterError: heads that answer in other labels, when `head` does not say which to keep.
        MergeError: an adapter without a weight change (bottleneck, prefix, full, peft's own methods).

    Examples:
        >>> from petune import LoRA, TrainConfig
        >>> config = TrainConfig(epochs=1, progress="off")
        >>> one = Tuner(backbone, method=LoRA(rank=2), name="one").fit(rows, config=config)
        >>> two = Tuner(backbone, method=LoRA(rank=3, rslora=True), name="two").fit(rows, config=config)
        >>> both = merge_adapters([one, two], weights=[0.7, 0.3], how="svd", rank=4)
        >>> both.adapter.method.rank, str(both.report).split(":")[0]
        (4, 'svd of 0.7 · one + 0.3 · two (rank=4), mean head')
    """
    recipe = Recipe(how=how, rank=rank, density=density, majority_sign=majority_sign, seed=seed)
    check_name(name)
    listed = _listed(adapters)
    given = recipe.weights(len(listed)) if weights is None else _checked(weights, len(listed))
    home, sources = _gathered(listed, backbone)
    made = combine([source.adapter for source in sources], given, recipe, head)
    return _tuner(made, home, sources, name, tokenizer)


def negate(
    adapter: str | Path | Adapter | Tuner,
    *,
    name: str = "negated",
    backbone: str | Path | PreTrainedModel | None = None,
    tokenizer: Any = None,
) -> Tuner:
    """The adapter with the sign of its weight change reversed: added to a backbone it unlearns what the adapter knew.

    The head is no change, so it stays as it is. Twice negated, an adapter is what it was.

    Ilharco et al. 2022, "Editing Models with Task Arithmetic", arXiv:2212.04089.

    Raises:
        MergeError: an adapter without a weight change.
        AdapterFileError: a wrong file, or an adapter of another backbone.

    Examples:
        >>> from petune import TrainConfig
        >>> tuner = Tuner(backbone).fit(rows, config=TrainConfig(epochs=1, progress="off"))
        >>> path, layer = next(iter(tuner.adapter.body.layers.items()))
        >>> bool((negate(tuner).adapter.body.layers[path].delta() == -layer.delta()).all())
        True
    """
    return merge_adapters([adapter], [-1.0], name=name, backbone=backbone, tokenizer=tokenizer)


def report_of(adapter: Adapter | Tuner) -> CombinationReport:
    """The report of a merged adapter, also after it was saved and loaded.

    Raises:
        AdapterError: an adapter that was trained, not merged from others.
    """
    living = adapter_of(adapter)
    facts = (living.facts.get("training") or {}).get("merged_from")
    if facts is None:
        raise AdapterError(f"{living.name!r} was not merged from other adapters.", expected="merge_adapters makes one.")
    return CombinationReport.from_facts(facts)


def _listed(adapters: Any) -> list[Any]:
    """The adapters as a list, each of a kind that can hold one."""
    if isinstance(adapters, str | Path) or not hasattr(adapters, "__iter__"):
        raise ConfigError(f"{adapters!r} is no list of adapters.", fix="Write merge_adapters([first, second]).")
    listed = list(adapters)
    if not listed:
        raise ConfigError("There is no adapter in the list.", expected="At least one adapter can be merged.")
    for item in listed:
        if not isinstance(item, str | Path | Adapter) and not hasattr(item, "adapter"):
            raise ConfigError(
                f"A {type(item).__name__} is no adapter.",
                expected="A Tuner, its adapter, or the folder of a saved one.",
            )
    return listed


def _checked(weights: Any, count: int) -> list[float]:
    """The weights as floats, one per adapter."""
    if isinstance(weights, str) or not hasattr(weights, "__iter__"):
        raise ConfigError(f"weights={weights!r} is no list.", expected=f"{count} numbers, one per adapter.")
    listed = list(weights)
    if len(listed) != count:
        raise ConfigError(f"{len(listed)} weights were given for {count} adapters.", expected="One weight per adapter.")
    for weight in listed:
        if not isinstance(weight, numbers.Real) or isinstance(weight, bool) or not math.isfinite(weight):
            raise ConfigError(f"The weight {weight!r} is no finite number.", expected="One number per adapter.")
    return [float(weight) for weight in listed]


def _gathered(listed: list[Any], backbone: Any) -> tuple[Backbone, list[_Source]]:
    """Every adapter as one that lives on the same backbone; what cannot be merged is refused before it is built."""
    living = [adapter_of(item) for item in listed if not isinstance(item, str | Path)]
    for adapter in living:
        refuse(adapter)
    home = Backbone.open(backbone) if backbone is not None else living[0].shell.backbone if living else None
    sources = []
    for item in listed:
        source = (
            _read(item, home)
            if isinstance(item, str | Path)
            else _Source(adapter_of(item), getattr(item, "tokenizer", None))
        )
        home = home or source.adapter.shell.backbone
        if source.adapter.shell.backbone is not home:
            _check(source.adapter, home)
        sources.append(source)
    assert home is not None, "the list is not empty"
    return home, sources


def _read(folder: str | Path, home: Backbone | None) -> _Source:
    """An adapter from its folder."""
    if is_full_model(Path(folder)):
        raise MergeError(
            f"{str(folder)!r} is a full fine-tuning: a whole model, and no change of weights.",
            expected="LoRA, AdaLoRA and head can be merged with each other.",
        )
    taken = shelf.take(folder, home)
    try:
        refuse(taken.adapter)
    except BaseException:
        taken.adapter.body.detach()
        raise
    tell(taken.adapter.facts.get("notices", []))
    return _Source(taken.adapter, taken.tokenizer)


def _check(adapter: Adapter, home: Backbone) -> None:
    """Refuses an adapter that was trained on another backbone."""
    try:
        tell(check_backbone(pack(adapter, None), home))
    except AdapterFileError as error:
        error.add_note(f"It is the adapter {adapter.name!r}.")
        raise


def _tuner(made: Combination, home: Backbone, sources: list[_Source], name: str, tokenizer: Any) -> Tuner:
    """A Tuner that holds the combined adapter, as one that was loaded does."""
    task = sources[made.chosen].adapter.task
    theirs = [source.tokenizer for source in (sources[made.chosen], *sources) if source.tokenizer is not None]
    opened = open_tokenizer(theirs[0] if tokenizer is None and theirs else tokenizer, home, task)
    facts = {"merged_from": made.report.facts()}
    adapter = Adapter.filled(home, name, made.method, task, made.layers, made.head, training=facts)
    tuner = Tuner.__new__(Tuner)
    tuner._settle_on(home)
    tuner.task, tuner.method, tuner.name, tuner.tokenizer = task, made.method, name, opened
    reside(tuner._bank, adapter)
    tuner._adapter, tuner._report = adapter, cast(Any, made.report)
    return tuner


__all__ = ["merge_adapters", "negate", "report_of"]
