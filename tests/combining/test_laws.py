"""The laws of merging, over ways and mixtures of adapters: exact products, honest errors, identity, negation."""

from __future__ import annotations

import weakref
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from petune import AdaptedModel, LoRA, merge_adapters, negate
from petune.combining import report_of
from petune.model.combining.assembling import combine
from petune.model.combining.ways import WAYS as TABLE
from petune.model.combining.ways import Recipe
from tests.combining.making import (
    BOTH,
    MIXES,
    OUT,
    QUERY,
    VALUE,
    WAYS,
    adapter,
    adapters,
    changes,
    logits,
    merged,
    off,
    summed,
)
from tests.conformance.subjects import batch, differ, open_backbone, task, tokenizer

WEIGHTS = [0.7, -1.3]
PRUNING = [how for how in WAYS if TABLE[how].prune != "none"]


def test_the_table_is_the_one_that_was_promised():
    """Eight ways, by the names that peft and the papers use."""
    assert tuple(TABLE) == ("linear", "task_arithmetic", "cat", "svd", *PRUNING) and set(TABLE) == set(WAYS)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("how", ["linear", "task_arithmetic", "cat"])
def test_exact_ways_are_the_weighted_sum_of_the_products(how, mix):
    """Whatever the scales, ranks and sites, nothing is lost but rounding, and the error says so."""
    made = adapters(mix)
    both = merged(made, WEIGHTS, how, head=0)
    assert off(changes(both.adapter), summed(made, WEIGHTS)) < 1e-6
    assert both.report.relative_error < 1e-6
    ranks = {path: sum(site.ranks) for path, site in both.report.sites.items()}
    found = {path: site.rank for path, site in both.report.sites.items()}
    assert found == ranks if how == "cat" else all(found[path] <= ranks[path] for path in ranks)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("how", ["linear", "svd"])
def test_a_rank_cuts_to_the_best_of_that_rank(how, mix):
    """Each site is the truncated SVD of the exact sum, and the report tells the true error there and over all."""
    made, wanted = adapters(mix), {}
    exact = summed(made, WEIGHTS)
    both = merged(made, WEIGHTS, how, rank=3, head=0)
    for path, change in exact.items():
        u, s, v = torch.linalg.svd(change, full_matrices=False)
        wanted[path] = u[:, :3] * s[:3] @ v[:3]
        error = float((change - wanted[path]).norm() / change.norm()) if change.any() else 0.0
        assert both.report.sites[path].relative_error == pytest.approx(error, abs=1e-7)
    found = changes(both.adapter)
    assert off(found, wanted) < 1e-6
    assert both.report.relative_error == pytest.approx(off(found, exact), abs=1e-6)
    assert all(layer.lora_A.shape[0] <= 3 for layer in both.adapter.body.layers.values())


@pytest.mark.parametrize("mix", ["plain", "rank patterns", "other sites", "adalora"])
@pytest.mark.parametrize("how", ["svd", *PRUNING])
def test_ranks_that_nobody_gave_are_the_largest_that_go_in(how, mix):
    """Site by site; a site where all have rank 0 keeps it."""
    both = merged(adapters(mix), how=how)
    for site in both.report.sites.values():
        assert site.rank == max(site.ranks)
    if mix == "rank patterns":
        assert both.report.sites[QUERY].rank == 0 and both.report.sites[VALUE].rank == 5


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("how", WAYS)
def test_one_adapter_with_weight_one_is_what_it_was(how, mix):
    """The same logits by every way; by the exact ones the same tensors and the same recipe, scale included."""
    for one in adapters(mix):
        if not one.body.layers:
            continue
        inputs = batch("bert", "single")
        alone = merged([one], [1.0], how)
        wanted = logits(one, inputs)
        assert differ(logits(alone, inputs), wanted) <= 1e-5 * max(1.0, float(wanted.abs().max()))
        assert alone.report.relative_error < 1e-6
        if how in ("linear", "cat", "task_arithmetic") and isinstance(one.method, LoRA):
            assert alone.adapter.method == one.method
            for path, named in one.tensors().items():
                for name, tensor in named.items():
                    assert torch.equal(alone.adapter.tensors()[path][name], tensor)


def test_an_untrained_rank_is_kept_too():
    """One adapter whose B is partly zero keeps its tensors."""
    one = adapter(open_backbone("bert"), "a", LoRA(rank=4))
    with torch.no_grad():
        for layer in one.body.layers.values():
            layer.lora_B[:, 1:] = 0.0
    alone = merged([one])
    assert all(
        torch.equal(named["lora_A"], one.tensors()[path]["lora_A"]) for path, named in alone.adapter.tensors().items()
    )


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "deberta-v2"])
def test_other_families(family):
    """Transposed weights, grouped keys and two stacks: the logits are those of the sum, and it merges."""
    home = open_backbone(family)
    made = [adapter(home, name, LoRA(rank=rank, rslora=rank == 3), seed=rank) for name, rank in (("a", 2), ("b", 3))]
    both, inputs = merged(made, [0.5, 0.5], family=family), batch(family, "single")
    assert off(changes(both.adapter), summed(made, [0.5, 0.5])) < 1e-6
    served = logits(both, inputs)
    both.merge()
    assert both.merge_receipt.sites == len(both.adapter.body.sites)
    assert differ(logits(both, inputs), served) <= 1e-4 * max(1.0, float(served.abs().max()))


def test_default_weights():
    """The mean for the linear ways; 1 each where the paper sums, or the way takes a mean by itself."""
    made = adapters("plain")
    for how in WAYS:
        wanted = 1.0 if how in ("task_arithmetic", "ties", "dare_ties") else 0.5
        assert merged(made, how=how).report.weights == (wanted, wanted)


@pytest.mark.parametrize("how", WAYS)
def test_a_weight_below_zero_is_the_negated_adapter(how):
    """Also where signs are elected or entries dropped at random."""
    one, two = adapters("rslora")
    turned = merged([one, negate(two, tokenizer=tokenizer("bert"))], [0.5, 0.8], how, seed=3, head=0)
    below = merged([one, two], [0.5, -0.8], how, seed=3, head=0)
    assert off(changes(below.adapter), changes(turned.adapter)) < 1e-5


@pytest.mark.parametrize("mix", ["plain", "rslora", "rank patterns", "own names"])
def test_negated_twice_is_what_it_was(mix):
    """To the bit, head included; once negated, the change has the other sign and the head stays."""
    one = adapters(mix)[0]
    minus = negate(one, tokenizer=tokenizer("bert"))
    again = negate(minus)
    for path, change in changes(one).items():
        assert torch.equal(changes(minus.adapter)[path], -change)
    assert minus.name == "negated"
    for path, named in one.tensors().items():
        assert all(torch.equal(again.adapter.tensors()[path][name], tensor) for name, tensor in named.items())
    for made in (minus, again):
        assert all(torch.equal(made.adapter.head()[name], tensor) for name, tensor in one.head().items())


def test_an_adapter_and_its_negation_are_nothing():
    """Rank 0 at every site, and no error to divide by."""
    one = adapters("plain")[0]
    nothing = merged([one, one], [1.0, -1.0])
    assert {site.rank for site in nothing.report.sites.values()} == {0}
    assert nothing.report.relative_error == 0.0
    inputs = batch("bert", "single")
    assert not differ(logits(nothing, inputs), logits(merged([one], [0.0]), inputs))


@pytest.mark.parametrize("how", PRUNING)
def test_pruning_is_repeatable_and_dare_is_seeded(how):
    """The same arguments give the same bits, and leave torch's random state alone; another seed matters to DARE."""
    made = adapters("other ranks")
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = merged(made, how=how, seed=1).adapter.tensors()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    again, other = (merged(made, how=how, seed=seed).adapter for seed in (1, 2))
    assert all(torch.equal(again.tensors()[path]["lora_B"], named["lora_B"]) for path, named in first.items())
    assert (off(changes(other), changes(again)) > 0.01) == how.startswith("dare")


def test_a_site_draws_for_itself():
    """What DARE drops at a site does not depend on which other sites there are."""
    home = open_backbone("bert")
    few = [adapter(home, "a", LoRA(rank=2, modules=(VALUE,)))]
    many = [*few, adapter(home, "b", LoRA(rank=2, modules=(QUERY, OUT)), seed=2)]
    alone = merged(few, [1.0], "dare_linear", density=0.5)
    among = merged(many, [1.0, 1.0], "dare_linear", density=0.5)
    assert torch.equal(changes(alone.adapter)[VALUE], changes(among.adapter)[VALUE])


def test_the_density_that_nobody_gave():
    """A fifth for TIES, half for the others, and everything of an adapter that is alone."""
    made = adapters("plain")
    found = {how: merged(made, how=how).report.knobs["density"] for how in PRUNING}
    assert found == {"magnitude_prune": 0.5, "ties": 0.2, "dare_linear": 0.5, "dare_ties": 0.5}
    assert merged(made[:1], how="ties").report.knobs["density"] == 1.0
    assert merged(made[:1], how="ties", density=0.3).report.knobs["density"] == 0.3


def test_elections_by_number_differ():
    """`majority_sign` reaches the election and the report."""
    home = open_backbone("bert")
    made = [adapter(home, f"{seed}", LoRA(rank=2), seed=seed) for seed in range(3)]
    total, number = (merged(made, how="ties", rank=32, majority_sign=by) for by in ("total", "frequency"))
    assert off(changes(number.adapter), changes(total.adapter)) > 0.1
    assert number.report.knobs["majority_sign"] == "frequency"


class Decompositions(TorchDispatchMode):
    """Counts the decompositions, by name and shape of what is decomposed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Runs an operation and counts it."""
        name = func.overloadpacket.__name__.lstrip("_").removeprefix("linalg_")
        if name in ("cholesky_ex", "eigh", "geqrf", "qr", "svd"):
            self.seen[name, tuple(args[0].shape)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("blocks", [1, 2, 6])
def test_nothing_of_the_width_is_decomposed_and_sites_go_together(blocks):
    """Low-rank ways decompose matrices of the sum of the ranks alone, those of all sites of one shape at once: their
    number does not grow with the sites."""
    home = open_backbone("bert", num_hidden_layers=blocks)
    made = [adapter(home, name, LoRA(rank=rank, **BOTH), seed=rank) for name, rank in (("a", 4), ("b", 3))]
    for how in ("linear", "svd", "task_arithmetic", "cat"):
        with Decompositions() as counted:
            merged(made, how=how, rank=None if how == "cat" else 5)
        once = {(name, (2 * blocks, 7, 7)): 1 for name in ("cholesky_ex", "eigh")}
        assert counted.seen == ({} if how == "cat" else once)


def test_dependent_factors_are_taken_apart_together_too():
    """One QR for all sites at which an adapter is merged with itself."""
    one = adapters("plain")[0]
    with Decompositions() as counted:
        twice = merged([one, one], [0.5, 0.5], "svd")
    assert sum(number for (name, _), number in counted.seen.items() if "qr" in name) == 1
    assert off(changes(twice.adapter), changes(one)) < 1e-6


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, by their memory, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.owners: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Runs an operation and notes what it made."""
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, torch.Tensor):
                place, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
                self.sizes[place] = size
                self.owners[place] = self.owners.get(place, 0) + 1
                weakref.finalize(tensor, self.gone, place)
        self.most = max(self.most, sum(self.sizes.values()))
        return found

    def gone(self, place: int) -> None:
        """A tensor is gone; its memory with the last of them."""
        self.owners[place] -= 1
        if not self.owners[place]:
            del self.owners[place], self.sizes[place]


@pytest.mark.parametrize("how", PRUNING)
@pytest.mark.parametrize("count", [2, 5])
def test_products_are_alive_one_site_at_a_time(how, count):
    """At most n + 2 matrices of the largest site at once (3 and a mask where no sign is elected), over 12 sites."""
    home = open_backbone("bert", hidden_size=256, intermediate_size=1024)
    made = [adapter(home, f"{seed}", LoRA(rank=1), seed=seed) for seed in range(count)]
    largest = 256 * 1024 * 4
    factors = sum(8 * tensor.numel() for one in made for named in one.tensors().values() for tensor in named.values())
    with Live() as live:
        combine(made, [1.0] * count, Recipe(how=how, density=0.3), None)
    matrices = count + 2 if TABLE[how].elects else 3.25
    assert (matrices - 1) * largest < live.most <= matrices * largest + 2 * factors + 0.1 * largest


def test_the_merged_one_lives_among_others():
    """It is added, routed and replaced like any other adapter, and a merged one can go into the next."""
    made = adapters("rslora")
    both, inputs = merged(made, [0.5, 0.5], name="both"), batch("bert", "single")
    model = AdaptedModel(made[0].shell.backbone.model, tokenizer=tokenizer("bert")).add("both", both).add("a", made[0])
    found = model(route=["both", "a", "both", "a", "a"], **inputs).logits
    for row, one in enumerate((both, made[0], both, made[0], made[0])):
        assert differ(found[row], logits(one, inputs)[row]) <= 1e-5
    more = merge_adapters([both, made[1]], [2.0, 1.0], "task_arithmetic")
    assert off(changes(more.adapter), summed(made, [1.0, 2.0])) < 1e-6
    assert more.adapter.task == task("single")
    assert report_of(more).adapters == ("both", "b")
