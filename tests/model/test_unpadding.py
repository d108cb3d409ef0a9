"""Padding left out: the same losses and gradients, for the work of the real pieces only."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from petune.errors import ConfigError
from petune.model import unpadding
from petune.model.attention import kinds_of
from petune.model.families import FAMILIES
from petune.model.learner import Learner
from petune.model.packed import layout_of
from tests import tiny
from tests.conformance.subjects import Subject, add, differ, hidden, method, same, snapshot, subject
from tests.covering import Case

PACKS = [family for family in tiny.FAMILIES if FAMILIES[family].packs]


def still(recipe: str, family: str, kind: str = "single", **changes: Any) -> tuple[Subject, Learner]:
    """A case without dropout, and its learner."""
    made = subject(Case(recipe, family, kind), dropout=0.0, **changes)
    return made, Learner(made.bank, made.adapter)


def step(learner: Learner, inputs: dict[str, Tensor], **fitting: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients of one forward and backward pass; what is made of padding has no say."""
    with learner.fitting(**fitting):
        logits = learner(**inputs)
        logits = logits if logits.dim() == 2 else logits[inputs["attention_mask"].bool()]
        logits.float().pow(2).sum().backward()
        gradients = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
        learner.zero_grad(set_to_none=True)
    return logits.detach(), gradients


def agree(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> bool:
    """Whether logits are equal within 1e-5, and gradients within 1e-5 of the largest."""
    assert one[1].keys() == other[1].keys()
    largest = max(float(each.abs().max()) for each in one[1].values())
    gradients = max(differ(one[1][name], other[1][name]) for name in one[1])
    return differ(one[0], other[0]) < 1e-5 and gradients < 1e-5 * max(largest, 1)


def flops(learner: Learner, inputs: dict[str, Tensor], **fitting: Any) -> int:
    """Of one forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        step(learner, inputs, **fitting)
    return counter.get_total_flops()


@pytest.mark.parametrize("family", PACKS)
@pytest.mark.parametrize("recipe", ["lora", "adalora", "bottleneck", "head", "full"])
def test_logits_and_gradients_are_those_of_the_padded_batch(recipe: str, family: str) -> None:
    """Rows without their padding give the same logits and gradients."""
    made, learner = still(recipe, family)
    assert agree(step(learner, made.inputs), step(learner, made.inputs, padding_free=True))


@pytest.mark.parametrize("family", PACKS)
def test_checkpointing_recomputes_without_padding(family: str) -> None:
    """What is recomputed in the backward pass knows its layout too."""
    made, learner = still("lora", family)
    once = step(learner, made.inputs)
    assert agree(once, step(learner, made.inputs, padding_free=True, gradient_checkpointing=True))


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "llama"])
def test_eager_attention_too(family: str) -> None:
    """Eager attention is causal by its mask alone, so that is cut to each row."""
    made, learner = still("lora", family, attn_implementation="eager")
    assert kinds_of(made.backbone.model) == {"eager"}
    assert agree(step(learner, made.inputs), step(learner, made.inputs, padding_free=True))


@pytest.mark.parametrize("family", ["bert", "llama", "modernbert"])
def test_padding_on_the_left_is_left_out_as_well(family: str) -> None:
    """Rows may begin anywhere."""
    made, learner = still("lora", family, "tokens", classifier_dropout=0.0)
    flipped = {name: tensor.flip(1) for name, tensor in made.inputs.items()}
    layout = layout_of(flipped["attention_mask"])
    assert layout is not None and any(any(run.first) for run in layout.runs)
    assert agree(step(learner, flipped), step(learner, flipped, padding_free=True))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("recipe", ["lora", "bottleneck"])
def test_a_step_costs_its_real_pieces_only(recipe: str, attention: str) -> None:
    """A ragged batch has the operations of its rows one by one, where no row pads; the padded batch has more."""
    made, learner = still(recipe, "bert", attn_implementation=attention)
    lengths = made.inputs["attention_mask"].sum(1).tolist()
    rows = [
        {name: tensor[row : row + 1, :length] for name, tensor in made.inputs.items()}
        for row, length in enumerate(lengths)
    ]
    packed = flops(learner, made.inputs, padding_free=True)
    assert packed == sum(flops(learner, row) for row in rows)
    real = sum(lengths) / made.inputs["attention_mask"].numel()
    assert packed < flops(learner, made.inputs) * (real + 0.05)


def test_the_trunk_may_hand_in_its_states_padded() -> None:
    """A trunk that is passed over gives (B, T, D) to the first live block, where the padding is left out."""
    made, _ = still("lora", "bert", num_hidden_layers=4)
    adapter = add(made.bank, "upper", method("lora", top=2), "single")
    learner = Learner(made.bank, adapter)
    assert learner.trunk is not None
    once = step(learner, made.inputs)
    for trunk_first in (True, False):
        with learner.trunk.listening():
            states = learner.trunk_states(made.inputs)
            if trunk_first:
                assert agree(once, step(learner, {**made.inputs, "trunk_states": states}, padding_free=True))
        if not trunk_first:
            with learner.fitting(padding_free=True), learner.trunk.listening():
                again = learner(**made.inputs, trunk_states=states).detach()
            assert differ(again, once[0]) < 1e-5


def test_a_batch_that_pads_little_stays_padded() -> None:
    """`"auto"` leaves padding out from a share on; evaluation, and rows with gaps in them, keep it."""
    made, learner = still("lora", "bert")
    full = {name: tensor[:1, : int(made.inputs["attention_mask"][0].sum())] for name, tensor in made.inputs.items()}
    gaps = {**made.inputs, "attention_mask": made.inputs["attention_mask"].clone()}
    gaps["attention_mask"][0, 1] = 0
    with learner.fitting(padding_free="auto"):
        for inputs, left_out in ((made.inputs, True), (full, False), (gaps, False)):
            with unpadding.leaving_out(learner, inputs):
                assert (unpadding._running.get() is not None) is left_out
        learner.mode(False)
        with unpadding.leaving_out(learner, made.inputs):
            assert unpadding._running.get() is None


APART = ("deberta-v2", "t5", "albert", "mpnet", "bart")
"""Families whose blocks are not known to work piece by piece."""
REFUSED = [("prefix", "bert", "attention"), *(("lora", family, "piece by piece") for family in APART)]


@pytest.mark.parametrize(("recipe", "family", "why"), REFUSED)
def test_what_cannot_do_without_padding_says_so(recipe: str, family: str, why: str) -> None:
    """True is refused with the reason; "auto" runs as ever, to the bit."""
    made, learner = still(recipe, family)
    with pytest.raises(ConfigError, match=why), learner.fitting(padding_free=True):
        pass
    padded, auto = step(learner, made.inputs), step(learner, made.inputs, padding_free="auto")
    assert torch.equal(padded[0], auto[0]) and same(padded[1], auto[1])


@pytest.mark.parametrize("change", [{"chunk_size_feed_forward": 4}, {"is_decoder": True, "add_cross_attention": True}])
def test_blocks_that_cut_rows_are_refused(change: dict[str, Any]) -> None:
    """A configuration whose blocks do more than piece by piece is told."""
    _, learner = still("lora", "bert", **change)
    with pytest.raises(ConfigError, match="configuration"), learner.fitting(padding_free=True):
        pass


def test_the_backbone_is_untouched() -> None:
    """Modules, classes, names and bits are the same within a fit; the setting and the calls are back after it."""
    made, learner = still("lora", "bert")
    model = made.backbone.model
    before, shape = snapshot(model), [(name, type(module)) for name, module in model.named_modules()]
    with learner.fitting(padding_free=True):
        learner(**made.inputs).sum().backward()
        assert shape == [(name, type(module)) for name, module in model.named_modules()]
        assert same(before, snapshot(model))
    learner.zero_grad(set_to_none=True)
    assert model.config._attn_implementation == "sdpa"
    assert not [module for module in model.modules() if "forward" in module.__dict__]
    assert unpadding.SHARE not in learner.__dict__


def test_a_prefix_beside_it_keeps_acting() -> None:
    """A resident prefix holds the attention setting too; it answers as before, within a fit and after it."""
    made, learner = still("lora", "bert")
    add(made.bank, "prefix", method("prefix"), "single", seated=True)
    before = made.logits("prefix")
    with learner.fitting(padding_free=True):
        learner(**made.inputs).sum().backward()
        learner.mode(False)
        assert torch.equal(made.logits("prefix"), before)
    assert torch.equal(made.logits("prefix"), before)
    assert made.backbone.model.config._attn_implementation == "petune_sdpa"
    made.bank.remove("prefix")
    assert made.backbone.model.config._attn_implementation == "sdpa"


def test_other_threads_and_copies_go_their_own_way() -> None:
    """While a packed forward runs, another thread's call, and a deep copy's, answer as the bare backbone does."""
    made, learner = still("lora", "bert")
    before, found = hidden(made.bank, made.inputs), []
    inputs = {name: tensor for name, tensor in made.inputs.items() if name != "labels"}
    with learner.fitting(padding_free=True), unpadding.leaving_out(learner, made.inputs):
        thread = threading.Thread(target=lambda: found.append(hidden(made.bank, inputs)))
        thread.start()
        thread.join()
        twin = copy.deepcopy(made.backbone.model)
    assert torch.equal(found[0], before)
    with torch.no_grad():
        assert torch.equal(twin(**inputs).last_hidden_state, before)
        for parameter in twin.encoder.layer[0].parameters():
            parameter.zero_()
        assert not torch.equal(twin(**inputs).last_hidden_state, before)
    assert torch.equal(hidden(made.bank, made.inputs), before)
