"""The algebra by itself: on matrices small enough to count by hand, and against whole decompositions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from petune.model.combining.compressing import compressed
from petune.model.combining.lowrank import Factors, all_truncated, stacked, truncated
from petune.model.combining.pruning import drop_at_random_, keep_largest_
from petune.model.combining.signs import elected_mean
from petune.model.combining.ways import WAYS, Recipe, multiplied_out


def factors(d_out: int, d_in: int, rank: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Factors:
    """Random factors."""
    drawn = torch.Generator().manual_seed(seed)
    made = (torch.randn(shape, generator=drawn, dtype=dtype) for shape in ((d_out, rank), (rank, d_in)))
    return Factors(*made)


def whole(matrix: Tensor) -> Factors:
    """A matrix as factors."""
    return Factors(matrix, torch.eye(matrix.shape[1], dtype=matrix.dtype))


def draw() -> torch.Generator:
    """A fresh generator."""
    return torch.Generator().manual_seed(0)


def best(matrix: Tensor, rank: int) -> Tensor:
    """The nearest matrix of a rank, by a whole SVD."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (7, 5)])
@pytest.mark.parametrize("rank", [1, 3, 6, 40])
def test_cutting_low_rank_is_the_truncated_svd(shape, rank):
    """Factors, error and norm are those of the whole SVD of the sum, also where the ranks exceed the widths."""
    parts, weights = [factors(*shape, rank=r, seed=r) for r in (2, 3, 4)], [0.5, -2.0, 1.5]
    total = sum(weight * (part.b @ part.a) for part, weight in zip(parts, weights, strict=True))
    cut = truncated(parts, weights, rank)
    made = cut.factors.b @ cut.factors.a
    assert torch.allclose(made, best(total, rank), atol=1e-10)
    assert cut.lost == pytest.approx(float((total - made).square().sum()), rel=1e-9, abs=1e-9)
    assert cut.whole == pytest.approx(float(total.square().sum()))
    assert cut.factors.rank == min(rank, 9, *shape)


def test_by_hand_two_rank_one_products():
    """2 · e₁e₁ᵀ and 3 · e₂e₂ᵀ: at rank 1 the larger is kept, and the error is 2 of √13."""
    one, two = (Factors(torch.eye(4)[:, i : i + 1].double(), torch.eye(5)[i : i + 1].double()) for i in (0, 1))
    cut = truncated([one, two], [2.0, 3.0], 1)
    wanted = torch.zeros(4, 5, dtype=torch.float64)
    wanted[1, 1] = 3.0
    assert torch.allclose(cut.factors.b @ cut.factors.a, wanted)
    assert (cut.lost, cut.whole) == (pytest.approx(4.0), pytest.approx(13.0))


def test_without_a_rank_only_what_is_zero_goes():
    """A sum of full rank comes back stacked as it is; what is linearly dependent, or cancels out, is left out."""
    one, two = factors(9, 8, 2, seed=1), factors(9, 8, 3, seed=2)
    both = truncated([one, two], [1.0, -1.0], None)
    assert torch.equal(both.factors.b, stacked([one, two], [1.0, -1.0]).b)
    assert (both.factors.rank, both.lost) == (5, 0.0)
    twice = truncated([one, one], [0.25, 0.75], None)
    assert twice.factors.rank == 2
    assert torch.allclose(twice.factors.b @ twice.factors.a, one.b @ one.a)
    assert truncated([one, one], [1.0, -1.0], None).factors.rank == 0


def test_a_small_adapter_is_not_taken_for_rounding():
    """Factors of very unlike sizes, with a product that counts, survive beside a large one."""
    large, small = factors(9, 8, 2, seed=1), factors(9, 8, 2, seed=2)
    odd = Factors(small.b * 1e-9, small.a * 1e6)
    cut = truncated([large, odd], [1.0, 1.0], None)
    assert cut.factors.rank == 4


@pytest.mark.parametrize("shape", [(60, 50), (50, 60)])
@pytest.mark.parametrize("apart", [1e-1, 1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("side", ["b", "a", "both"])
def test_nearly_dependent_factors(shape, apart, side):
    """The second adapter is nearly the first one, in B, in A or in both: the cut is as good as float32 can tell."""
    one, two = factors(*shape, rank=4, seed=1), factors(*shape, rank=4, seed=2)
    b = one.b + apart * two.b if side in ("b", "both") else two.b
    a = one.a + apart * two.a if side in ("a", "both") else two.a
    parts, weights = [one, Factors(b, a)], [1.0, -0.9]
    total = one.b @ one.a - 0.9 * b @ a
    for rank in (None, 3, 6):
        cut = truncated(parts, weights, rank)
        made, wanted = cut.factors.b @ cut.factors.a, total if rank is None else best(total, rank)
        size = sum(float((part.b.norm(dim=0) * part.a.norm(dim=1)).sum()) for part in parts)
        assert float((made - wanted).norm()) <= 3e-7 * size
        assert cut.lost**0.5 == pytest.approx(float((total - wanted).norm()), abs=3e-7 * size)
        assert torch.isfinite(cut.factors.b).all() and torch.isfinite(cut.factors.a).all()


def test_zero_factors_among_others():
    """Columns of B, rows of A or a whole adapter of zeros have no rank, and harm neither their site nor the others."""
    for zeroed in (("b", 1), ("a", 2), ("b", None), ("a", None)):
        parts = [factors(20, 30, 3, seed=seed) for seed in (1, 2)]
        which, place = zeroed
        matrix = parts[1].b.T if which == "b" else parts[1].a
        matrix[slice(None) if place is None else place] = 0.0
        total = parts[0].b @ parts[0].a - 2.0 * parts[1].b @ parts[1].a
        cut = truncated(parts, [1.0, -2.0], None)
        assert cut.factors.rank == (3 if place is None else 5)
        assert torch.allclose(cut.factors.b @ cut.factors.a, total, atol=1e-10)
        assert torch.allclose((two := truncated(parts, [1.0, -2.0], 2).factors).b @ two.a, best(total, 2), atol=1e-10)
    nothing = truncated([Factors(torch.zeros(9, 2).double(), torch.zeros(2, 8).double())] * 2, [1.0, 1.0], 1)
    assert (nothing.factors.rank, nothing.lost, nothing.whole) == (0, 0.0, 0.0)


@pytest.mark.parametrize("rank", [None, 2, 5])
def test_sites_that_are_cut_together_are_what_they_are_alone(rank):
    """Sound, dependent, cancelling and empty ones side by side: each is cut as if it were alone."""
    one, two = factors(12, 10, 3, seed=1), factors(12, 10, 3, seed=2)
    none = Factors(torch.zeros(12, 3).double(), two.a)
    pairs = [(one, two), (one, one), (one, Factors(-one.b, one.a)), (none, none), (two, none), (two, one)]
    sums = [stacked(pair, [1.0, 1.0]) for pair in pairs]
    found = all_truncated(Factors(torch.stack([it.b for it in sums]), torch.stack([it.a for it in sums])), rank)
    true = [6, 3, 0, 0, 3, 6]
    assert [cut.factors.rank for cut in found] == [count if rank is None else min(rank, count) for count in true]
    for pair, cut in zip(pairs, found, strict=True):
        alone, total = truncated(pair, [1.0, 1.0], rank), sum(part.b @ part.a for part in pair)
        wanted = total if rank is None else best(total, rank)
        assert torch.allclose(cut.factors.b @ cut.factors.a, wanted, atol=1e-10)
        assert (cut.lost, cut.whole) == (pytest.approx(alone.lost), pytest.approx(alone.whole))


def test_by_hand_the_largest_are_kept():
    """Two of six entries by magnitude; equal ones stay together; all and none are the ends."""
    matrix = torch.tensor([[1.0, -6.0, 2.0], [5.0, -3.0, 4.0]])
    assert keep_largest_(matrix.clone(), 0.34).tolist() == [[0, -6, 0], [5, 0, 0]]
    assert keep_largest_(torch.tensor([[2.0, -2.0, 1.0]]), 0.34).tolist() == [[2, -2, 0]]
    assert torch.equal(keep_largest_(matrix.clone(), 1.0), matrix)
    assert not keep_largest_(matrix.clone(), 0.1).any()


def test_dare_rescales_what_it_keeps():
    """Each entry is zero or 1 / density times itself, about density of them are kept, and the mean is unbiased."""
    matrix = torch.randn(60, 70)
    kept = drop_at_random_(matrix.clone(), 0.25, draw())
    there = kept != 0
    assert torch.allclose(kept[there], matrix[there] * 4)
    assert 0.22 < float(there.float().mean()) < 0.28
    assert torch.equal(kept, drop_at_random_(matrix.clone(), 0.25, draw()))
    drawn = draw()
    mean = torch.stack([drop_at_random_(matrix.clone(), 0.5, drawn) for _ in range(400)]).mean(0)
    assert float((mean - matrix).abs().mean()) < 0.06


@pytest.mark.parametrize(
    ("majority", "wanted"), [("total", [[4.0, 0.0, -2.0, 2.0]]), ("frequency", [[-1.5, 0.0, -2.0, 2.0]])]
)
def test_by_hand_signs_are_elected(majority, wanted):
    """One large entry outvotes two small ones by sum and not by number; zeroes have no vote."""
    changes = [torch.tensor([[4.0, 0.0, -2.0, 1.0]]), torch.tensor([[-1.0, 0.0, 0.0, 3.0]])]
    changes.append(torch.tensor([[-2.0, 0.0, 0.0, -1.0]]))
    assert elected_mean(changes, [1.0] * 3, majority).tolist() == wanted
    assert changes == []


def test_by_hand_weights_of_ties():
    """Weights scale what was elected, and one below zero turns its change around before the election."""
    one, two = torch.tensor([[4.0, 1.0]]), torch.tensor([[3.0, -2.0]])
    assert elected_mean([one.clone(), two.clone()], [2.0, 0.5], "total").tolist() == [[4.75, -1.0]]
    turned = elected_mean([one.clone(), two.clone()], [1.0, -1.0], "total")
    assert torch.equal(turned, elected_mean([one.clone(), -two], [1.0, 1.0], "total"))
    assert turned.tolist() == [[4.0, 1.5]]


def test_many_adapters_vote():
    """More than 255 adapters are counted right."""
    assert elected_mean([torch.ones(1, 2) for _ in range(300)], [1.0] * 300, "total").tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("how", ["magnitude_prune", "ties"])
def test_by_hand_half_of_each_product(how):
    """The two largest of four entries of each, weighted and summed; where one alone has an entry TIES says the same."""
    parts = [whole(torch.tensor([[4.0, 1.0], [3.0, -2.0]])), whole(torch.tensor([[-1.0, 2.0], [0.5, 8.0]]))]
    found = multiplied_out(parts, [0.5, 0.25], Recipe(how=how, density=0.5), 0.5, draw())
    assert found.tolist() == [[2.0, 0.5], [1.5, 2.0]]


@pytest.mark.parametrize("how", [name for name, way in WAYS.items() if way.prune != "none"])
def test_at_density_one_pruning_prunes_nothing(how):
    """Then the linear ones are the weighted sum, and both ties agree with each other."""
    parts, weights = [factors(6, 7, 2, seed, torch.float32) for seed in (1, 2)], [0.5, 2.0]
    found = multiplied_out(parts, weights, Recipe(how=how, density=1.0), 1.0, draw())
    if WAYS[how].elects:
        wanted = elected_mean([part.b @ part.a for part in parts], weights, "total")
    else:
        wanted = sum(weight * (part.b @ part.a) for part, weight in zip(parts, weights, strict=True))
    assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (12, 5)])
def test_compression_is_as_good_as_the_best(shape):
    """A pruned sum is cut within a thousandth of the smallest error that its rank allows, and the error is true."""
    parts = [factors(*shape, rank=4, seed=seed, dtype=torch.float32) for seed in range(3)]
    matrix = multiplied_out(parts, [1.0] * 3, Recipe(how="ties", density=0.3), 0.3, draw())
    least = float((matrix - best(matrix, 4)).norm())
    cut = compressed(matrix.clone(), 4, 12, draw())
    error = float((matrix - cut.factors.b @ cut.factors.a).norm())
    assert least <= error * (1 + 1e-5)
    assert error <= least * 1.001
    assert cut.lost**0.5 == pytest.approx(error, rel=1e-4)
    assert cut.whole**0.5 == pytest.approx(float(matrix.norm()), rel=1e-5)


def test_what_has_the_rank_is_compressed_without_loss():
    """A matrix of rank 3 keeps its rank, and zero becomes rank 0."""
    made = factors(40, 30, 3, dtype=torch.float32)
    matrix = made.b @ made.a
    cut = compressed(matrix.clone(), 8, 3, draw())
    assert cut.factors.rank == 3
    assert torch.allclose(cut.factors.b @ cut.factors.a, matrix, atol=1e-5)
    assert compressed(torch.zeros(6, 5), 2, 2, draw()).factors.rank == 0
