"""`torch.compile` while an adapter learns: one graph for a block with its layers, and the gradients of plain code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from petune.model.bank import Bank
from petune.model.compiled_learning import compiled_learning
from petune.model.learner import Learner
from tests.conformance.subjects import add, batch, method, open_backbone

# torch hides this remark of its own tracer by another way than a filter.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

RECIPES = {
    "lora": {},
    "adalora": {},
    "bottleneck": {},
    "beside": {"style": "parallel"},
}


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    """Every test begins without compiled code."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def learner_of(name: str, family: str = "bert", **changes: Any) -> Learner:
    """A learner that acts in every block."""
    bank = Bank(open_backbone(family, dropout=0.0, **changes))
    recipe = method("bottleneck" if name == "beside" else name, **RECIPES[name])
    return Learner(bank, add(bank, "mine", recipe, "single"))


def gradients(learner: Learner, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The logits and the gradients of the adapter and its head."""
    logits = learner(**inputs)
    learner.zero_grad(set_to_none=True)
    logits.square().sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in learner.parameters() if p.grad is not None)]


def compiled(learner: Learner, **options: Any) -> Any:
    """The context of a compiled fit."""
    return compiled_learning(learner.bank.taps, learner.adapter, learner.live_blocks(), **options)


CASES = [(name, family, False) for name in RECIPES for family in ("bert", "llama")] + [("lora", "bert", True)]


@pytest.mark.parametrize(("name", "family", "checkpointed"), CASES)
def test_the_gradients_are_those_of_plain_code(name: str, family: str, checkpointed: bool) -> None:
    """Blocks and layers make graphs without a break, whose gradients are those without compilation; blocks that are
    recomputed stay uncompiled."""
    learner, inputs = learner_of(name, family), batch(family, "single")
    with learner.fitting(backbone_dropout=False, gradient_checkpointing=checkpointed):
        wanted = gradients(learner, inputs)
        counter = CompileCounterWithBackend("aot_eager")
        with compiled(learner, backend=counter, fullgraph=True):
            found = gradients(learner, inputs)
        assert (counter.frame_count > 0) is not checkpointed
        assert len(found) == len(wanted)
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, wanted, strict=True))
        after = gradients(learner, inputs)
        assert all(torch.equal(one, other) for one, other in zip(after, wanted, strict=True))


def test_blocks_share_a_graph_and_other_calls_stay_out_of_it() -> None:
    """All blocks above the first, into which no gradient goes, share a graph. An evaluation and other adapters run
    plainly."""
    learner, inputs = learner_of("lora", num_hidden_layers=4), batch("bert", "single")
    other = Learner(learner.bank, add(learner.bank, "other", method("bottleneck"), "single", seed=9))
    with torch.no_grad():
        told = [learner(**inputs), other(**inputs)]
    with ExitStack() as stack:
        stack.enter_context(learner.fitting(backbone_dropout=False))
        counter = CompileCounterWithBackend("eager")
        stack.enter_context(compiled(learner, backend=counter))
        gradients(learner, inputs)
        gradients(learner, inputs)
        assert counter.frame_count == 2
        theirs = other(**inputs)
        assert theirs.requires_grad
        assert torch.allclose(theirs, told[1], atol=1e-5)
        learner.mode(False)
        with torch.no_grad():
            assert torch.allclose(learner(**inputs), told[0], atol=1e-5)
        assert counter.frame_count == 2
        # A second learner at the same sites learns beside it, uncompiled.
        twin = Learner(learner.bank, add(learner.bank, "twin", method("lora"), "single", seed=4))
        with compiled(twin, backend=counter):
            gradients(twin, inputs)
        assert counter.frame_count == 2
