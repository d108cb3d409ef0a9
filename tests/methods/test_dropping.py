"""What LoRA keeps for its backward pass: the very inputs that are there anyway, with dropout and in bfloat16 too."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from petune.methods import _dropping
from petune.methods._dropping import narrowed
from petune.methods.adalora import AdaLoRA
from petune.methods.base import Method
from petune.methods.bottleneck import Bottleneck
from petune.methods.lora import LoRA, LoRALayer
from petune.model.bank import Bank
from petune.model.learner import Learner
from tests.conformance.subjects import add, batch, open_backbone

DEEP = {"num_hidden_layers": 12, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4}


def saved_bytes(learner: Learner, inputs: dict[str, Tensor], *, autocast: bool = False) -> int:
    """What a forward leaves for the backward pass, each memory counted once, and no parameter."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in learner.weights()}
    found: dict[int, int] = {}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
            kept.append(storage)  # so that no other memory gets this address
        return tensor

    with (
        learner.fitting(backbone_dropout=False),
        saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        learner(**inputs)
    return sum(found.values())


def saved_by(method: Method, *, dtype: torch.dtype = torch.float32, autocast: bool = False) -> int:
    """The bytes that a method on all linear maps of twelve blocks leaves for the backward pass."""
    bank = Bank(open_backbone("bert", dropout=0.0, **DEEP))
    bank.backbone.model.to(dtype)
    return saved_bytes(
        Learner(bank, add(bank, "mine", method, "single")), batch("bert", "single", 8), autocast=autocast
    )


@pytest.mark.parametrize("kind", [LoRA, AdaLoRA])
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_dropout_keeps_nothing_more(kind: Any, autocast: bool) -> None:
    """With dropout 0.1 at most a tenth more is saved than without; written plainly it would be two thirds more."""
    without = saved_by(kind(), autocast=autocast)
    assert saved_by(kind(dropout=0.1), autocast=autocast) <= 1.1 * without


@pytest.mark.parametrize("kind", [LoRA, AdaLoRA, Bottleneck])
def test_no_float_copy_is_kept_of_a_bfloat16_input(kind: Any) -> None:
    """On a bfloat16 backbone an adapter with float32 weights saves about half of what is saved in float32."""
    assert saved_by(kind(), dtype=torch.bfloat16) <= 0.56 * saved_by(kind())


def test_query_key_and_value_keep_one_input() -> None:
    """Under an autocast, which casts what enters a product, the input that three maps share is still kept once."""
    only_query = saved_by(LoRA(targets=("query",)), autocast=True)
    three = saved_by(LoRA(targets=("query", "key", "value")), autocast=True)
    one_input = 12 * batch("bert", "single", 8)["input_ids"].numel() * 64 * 4
    inner = 12 * 2 * batch("bert", "single", 8)["input_ids"].numel() * 8 * 2
    small = 12 * 2 * 2 * 8 * 64 * 2
    assert three - only_query <= inner + small + one_input // 2


def plainly(x: Tensor, weight: Tensor, share: float) -> Tensor:
    """Dropout and product as anybody would write them, with the mask that is drawn next."""
    mask = _dropping.drawn(x, share)[: x.numel()].view(x.shape)
    return (x * mask / (1 - _dropping._share(share))) @ weight.mT


@pytest.mark.parametrize("width", [6, 8, 7])
def test_the_gradients_are_those_of_the_plain_formula(width: int) -> None:
    """For one mask: the same values and the same gradients by the input and by the weight, in float64."""
    torch.manual_seed(0)
    x = torch.randn(3, 5, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, width, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(4)
    found = narrowed(x, weight, 0.3)
    torch.manual_seed(4)
    wanted = plainly(x, weight, 0.3)
    assert torch.allclose(found, wanted)
    slope = torch.randn_like(found)
    for mine, theirs in zip(
        torch.autograd.grad(found, (x, weight), slope), torch.autograd.grad(wanted, (x, weight), slope), strict=True
    ):
        assert torch.allclose(mine, theirs)
    mask = _dropping.drawn(x, 0.3)
    apply = _dropping._Narrowed.apply
    assert torch.autograd.gradcheck(lambda *given: apply(*given, mask, 0.3, torch.float64), (x, weight))


def test_a_mask_survives_its_packing() -> None:
    """Every pattern of eight values comes back as it was, in every type."""
    kept = _dropping.drawn(torch.empty(4096, 8), 0.5)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        assert torch.equal(_dropping.unpacked(_dropping.packed(kept), dtype), kept.to(dtype))


def test_the_share_is_dropped_and_the_mean_stays() -> None:
    """Of many values the asked share is dropped, and the others are enlarged so that the mean is the same."""
    torch.manual_seed(0)
    for share in (0.01, 0.1, 0.25, 0.9):
        found = narrowed(torch.ones(1, 400_000, 1), torch.ones(1, 1), share)
        spread = (share * (1 - share) / 400_000) ** 0.5
        assert abs((found == 0).double().mean().item() - share) < 5 * spread + 1 / 2**16
        assert abs(found.double().mean().item() - 1) < 5 * spread / (1 - share)


def layer() -> LoRALayer:
    """A layer that drops half of its input and has an effect."""
    torch.manual_seed(1)
    made = LoRALayer(6, 5, 2, 1.5, dropout=0.5)
    nn.init.normal_(made.lora_B)
    return made


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recomputed_forward_drops_the_same(reentrant: bool) -> None:
    """Under gradient checkpointing of either form the same values are dropped: the gradients are of one forward."""
    made, x, y = layer(), torch.randn(3, 4, 6, requires_grad=True), torch.randn(3, 4, 5)
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(7)
        out = checkpoint(made, x, y, use_reentrant=reentrant) if checkpointed else made(x, y)
        found.append(torch.autograd.grad(out.square().sum(), (x, *made.parameters()), allow_unused=True) if not
                     reentrant else _by_backward(out, x, made))  # fmt: skip
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in zip(*found, strict=True))


def _by_backward(out: Tensor, x: Tensor, made: nn.Module) -> tuple[Tensor, ...]:
    """The reentrant form knows `backward` alone."""
    out.square().sum().backward()
    leaves = (x, *made.parameters())
    found = tuple(leaf.grad.clone() for leaf in leaves if leaf.grad is not None)
    for leaf in leaves:
        leaf.grad = None
    return found


def test_the_seed_tells_the_mask() -> None:
    """The same seed gives the same bits, in a deep copy too; the next call drops others, and evaluation none."""
    made, x, y = layer(), torch.randn(3, 4, 6), torch.randn(3, 4, 5)
    torch.manual_seed(3)
    first, second = made(x, y), made(x, y)
    torch.manual_seed(3)
    assert torch.equal(copy.deepcopy(made)(x, y), first)
    assert not torch.equal(first, second)
    made.eval()
    assert torch.equal(made(x, y), made(x, y))
