"""Logits at the supervised places alone: the loss and the gradients of all logits, for a part of their cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from petune.model.bank import Bank
from petune.model.focusing import can_focus, focused
from petune.model.learner import Learner
from petune.model.routing import entered
from petune.tasks.causal_lm import CausalLM
from petune.tasks.seq2seq_lm import Seq2SeqLM
from tests.conformance.subjects import add, method, open_backbone

WRITERS = [("gpt2", "causal"), ("llama", "causal"), ("qwen2", "causal"), ("opt", "causal"), ("t5", "seq2seq"),
           ("bart", "seq2seq")]  # fmt: skip


def learner_of(family: str, kind: str) -> Learner:
    """A learner that writes."""
    bank = Bank(open_backbone(family, dropout=0.0))
    return Learner(bank, add(bank, "mine", method("lora"), kind))


def given(kind: str) -> tuple[dict[str, Tensor], Tensor]:
    """Rows of three prompts of eight places of which two are learnt, the last row padded; and the labels."""
    torch.manual_seed(0)
    ids, mask = torch.randint(5, 100, (3, 10)), torch.ones(3, 10, dtype=torch.int64)
    ids[2, 7:], mask[2, 7:] = 0, 0
    labels = torch.full_like(ids, -100)
    labels[0, 8:], labels[1, 9:], labels[2, 5:7] = ids[0, 8:], ids[1, 9:], ids[2, 5:7]
    inputs = {"input_ids": ids, "attention_mask": mask}
    return (inputs if kind == "causal" else {**inputs, "decoder_labels": labels}), labels


def step(learner: Learner, task: Any, inputs: dict[str, Tensor], labels: Tensor, *, focus: bool) -> list[Any]:
    """Loss, gradients and FLOPs of a forward and a backward."""
    shell = learner.adapter.shell
    model: nn.Module = shell.model
    learner.zero_grad(set_to_none=True)
    with FlopCounterMode(display=False) as counted, entered(learner.bank.frame("mine")):
        if focus:
            at, labels = task.supervised(labels)
            model = focused(shell.model, at)
        logits = model(**shell.inputs(inputs)).logits
        loss = task.loss(logits[0] if focus else logits, labels)
        loss.backward()
    return [
        counted.get_total_flops(),
        loss.detach(),
        *(p.grad.clone() for p in learner.parameters() if p.grad is not None),
    ]


@pytest.mark.parametrize(("family", "kind"), WRITERS)
def test_the_loss_and_the_gradients_are_those_of_all_logits(family: str, kind: str) -> None:
    """Of 30 places 5 are learnt: the same loss to 1e-6, the same gradients, and a sixth of the last product's cost."""
    learner, (inputs, labels) = learner_of(family, kind), given(kind)
    task = CausalLM() if kind == "causal" else Seq2SeqLM()
    model = learner.adapter.shell.model
    assert can_focus(model)
    with learner.fitting(backbone_dropout=False):
        flops, *whole = step(learner, task, inputs, labels, focus=False)
        fewer, *part = step(learner, task, inputs, labels, focus=True)
        head = model.get_output_embeddings().weight
        # Forward, backward to the hidden states, and to the map where the checkpoint has none and it is learnt.
        products = 2 + head.requires_grad
    assert all(torch.allclose(one, other, rtol=1e-6, atol=1e-6) for one, other in zip(whole, part, strict=True))
    places = int(task.supervised(labels)[0].numel())
    assert places == 5
    assert flops - fewer == products * 2 * (labels.numel() - places) * head.numel()


def test_a_batch_without_supervised_places_has_no_loss() -> None:
    """Nothing to learn from gives a loss of 0 and gradients of 0, as ever."""
    learner, (inputs, labels) = learner_of("gpt2", "causal"), given("causal")
    with learner.fitting(backbone_dropout=False):
        _, loss, *slopes = step(learner, CausalLM(), inputs, torch.full_like(labels, -100), focus=True)
    assert loss == 0
    assert all((slope == 0).all() for slope in slopes)


def test_what_is_no_map_to_a_vocabulary_is_not_focused() -> None:
    """A classifier's head reads one state of each row."""
    bank = Bank(open_backbone("bert"))
    assert not can_focus(add(bank, "mine", method("lora"), "single").shell.model)
