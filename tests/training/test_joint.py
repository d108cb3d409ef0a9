"""Joint training: each adapter learns what it would learn alone, and the backbone runs once for all of them."""

from __future__ import annotations

import pytest
import torch

from petune import Bottleneck, Job, LoRA, Tuner, fit_many
from petune.model.abreast import Load, portions
from petune.training import fitting_together
from tests import tiny
from tests.conformance.subjects import same as same_state
from tests.conformance.subjects import snapshot
from tests.training.crews import again, alone, apart, crew, even, losses, quick, same, still, tensors, tuner


@pytest.mark.parametrize(
    ("optimizer", "rate", "tolerance"), [("sgd", None, 1e-5), ("adamw", 0.002, 1e-4)], ids=["sgd", "adamw"]
)
def test_each_adapter_learns_what_it_would_learn_alone(optimizer, rate, tolerance):
    """Other methods, ranks, tasks, rates, batch sizes, lengths, seeds, accumulation and clipping, over 50 steps."""
    model = still("bert")
    before = snapshot(model)
    jobs = crew(model, optimizer=optimizer, **({"learning_rate": rate} if rate else {}))
    together = fit_many(jobs)
    assert same_state(snapshot(model), before)
    assert [len(losses(one)) for one in together] == [50] * 6
    for one, solo in zip(together, alone(jobs), strict=True):
        assert apart(one, solo) <= tolerance, one.name
        torch.testing.assert_close(tensors(one), tensors(solo), rtol=0, atol=1e-4, msg=one.name)
        assert one.classes_ == solo.classes_ and one.report.best_step == solo.report.best_step
        assert one.report.best == pytest.approx(solo.report.best, rel=1e-4)
    assert same_state(snapshot(model), before)


@pytest.mark.parametrize("family", ["roberta", "albert", "modernbert", "gpt2", "llama", "bart"])
def test_families_learn_together(family):
    """Positions, shared blocks, local attention, causal masks, and pooling at the last or at the end piece."""
    model = still(family)
    task = "sequence-classification"
    jobs = [
        Job(tuner(model, "one", LoRA(rank=2), task), tiny.rows(40), None, quick(optimizer="sgd")),
        Job(tuner(model, "two", "bottleneck", task), tiny.rows(20, 3, seed=1), None, quick(optimizer="sgd", seed=1)),
        Job(tuner(model, "three", "prefix", task), tiny.rows(30, seed=2), None, quick(optimizer="sgd", batch_size=3)),
    ]
    for one, solo in zip(fit_many(jobs), alone(jobs), strict=True):
        assert apart(one, solo) <= 1e-5, one.name


def test_tasks_that_call_the_backbone_in_another_way_learn_beside_each_other():
    """T5's tags use its encoder alone, its classifiers both sides, and texts are written from their own targets."""
    model = still("t5")
    config = quick(optimizer="sgd", learning_rate=0.001)
    pairs = [{"source": row["text"], "target": row["label"]} for row in tiny.rows(24, 4)]
    jobs = [
        Job(tuner(model, "one", LoRA(rank=2)), tiny.rows(24), None, config),
        Job(tuner(model, "tags", "bottleneck", "token-classification"), tiny.tag_rows(24), None, config),
        Job(tuner(model, "write", "lora", "seq2seq-lm"), pairs, None, config),
        Job(tuner(model, "two", LoRA(rank=4)), tiny.rows(24, 3, seed=1), None, config),
        Job(tuner(model, "more", "lora", "token-classification"), tiny.tag_rows(20), None, config),
        Job(tuner(model, "longer", "prefix", "seq2seq-lm"), [{**row, "target": row["source"]} for row in pairs], None,
            config),
    ]  # fmt: skip
    for one, solo in zip(fit_many(jobs), alone(jobs), strict=True):
        assert apart(one, solo) <= 1e-5, one.name


def test_a_language_model_learns_beside_a_classifier():
    """One forward of a decoder gives the pieces of the one and the last states of the other."""
    model = still("llama")
    jobs = [
        Job(tuner(model, "write", "lora", "causal-lm"), tiny.rows(24), None, quick(optimizer="sgd")),
        Job(tuner(model, "class", LoRA(rank=2)), tiny.rows(16, 3), None, quick(optimizer="sgd")),
        Job(tuner(model, "tags", "prefix", "token-classification"), tiny.tag_rows(16), None, quick(optimizer="sgd")),
    ]
    for one, solo in zip(fit_many(jobs), alone(jobs), strict=True):
        assert apart(one, solo) <= 1e-5, one.name


def test_the_backbone_runs_once_for_all():
    """A step of four adapters is one forward of the backbone, and the whole fit takes as many as its longest job."""
    model = still("bert")
    calls: list[int] = []
    handle = model.encoder.layer[0].register_forward_hook(lambda module, args, output: calls.append(len(output)))
    jobs = [
        Job(tuner(model, f"rank-{rank}", LoRA(rank=rank)), even(4 * rank), None, quick(epochs=1, trim_last_block=False))
        for rank in (2, 4, 8, 16)
    ]
    fit_many(jobs)
    handle.remove()
    assert len(calls) == 16


def test_batches_of_other_lengths_have_forwards_of_their_own():
    """Where padding would cost more than a forward, batches of about one length go together; nothing else changes."""
    model = still("bert")
    shapes: set[tuple[int, ...]] = set()
    handle = model.encoder.layer[0].register_forward_hook(lambda module, args, output: shapes.add(output.shape[:2]))
    jobs = [
        Job(tuner(model, f"times-{times}-{seed}", LoRA(rank=2)), even(16, times), None,
            quick(optimizer="sgd", batch_size=8, seed=seed, trim_last_block=False))
        for times in (1, 12) for seed in (0, 1)
    ]  # fmt: skip
    made = fit_many(jobs)
    handle.remove()
    assert shapes == {(16, 4), (16, 26)}
    for one, solo in zip(made, alone(jobs), strict=True):
        assert apart(one, solo) <= 1e-5 and one.report.padding_share == solo.report.padding_share == 0


def test_a_forward_is_shared_where_that_pays():
    """Small batches always; large ones of one kind and length; not where much would be padding, or cut apart."""
    small = [Load(2, 10 + n, f"method {n}") for n in range(6)]
    assert portions(small, 32) == [[0, 1, 2, 3, 4, 5]]
    assert portions([Load(16, 40, "lora")] * 3, 32) == [[0, 1, 2]]
    assert portions([Load(16, 40, "lora"), Load(16, 40, "prefix")], 32) == [[0], [1]]
    assert portions([Load(16, 40, "lora"), Load(16, 40, "prefix")], 4096) == [[0, 1]]
    assert portions([Load(16, 60, "lora"), Load(16, 20, "lora"), Load(16, 62, "lora")], 32) == [[1], [0, 2]]


@pytest.mark.parametrize("kind", ["lora", "bottleneck", "prefix", "adalora", "head"])
def test_adapters_of_one_kind_are_computed_at_once(kind):
    """Equal layers are stacked for the moment; scales that differ, dropouts and left-over batches are respected."""
    model = still("bert")
    recipes = {
        "lora": [LoRA(rank=2), LoRA(rank=2, alpha=4), LoRA(rank=2)],
        "bottleneck": [Bottleneck(width=4), Bottleneck(width=4, scale=2.0), Bottleneck(width=4, activation="relu")],
    }
    jobs = [
        Job(tuner(model, f"{kind}-{place}", recipe), tiny.rows(18 + place), None, quick(optimizer="sgd", seed=place))
        for place, recipe in enumerate(recipes.get(kind, [kind] * 3))
    ]
    for one, solo in zip(fit_many(jobs), alone(jobs), strict=True):
        assert apart(one, solo) <= 1e-5, one.name


def test_one_job_is_a_fit():
    """A single job gives the bits of `Tuner.fit`, dropout and evaluation included, and no word of others."""
    model = tiny.backbone("bert")
    job = Job(tuner(model, "one", LoRA(rank=4)), tiny.rows(30), 0.2, quick(patience=1))
    (together,), (solo,) = fit_many([job]), alone([job])
    assert same(together, solo) and losses(together) == losses(solo)
    assert together.report.best == solo.report.best and together.report.notices == solo.report.notices


def test_jobs_may_be_tuples_and_adapters_may_have_one_name():
    """Names do not meet: each tuner keeps its own adapter, as after its own fit."""
    model = still("bert")
    first, second = tuner(model, "default", "lora"), tuner(model, "default", "head")
    made = fit_many([(first, tiny.rows(12), None, quick()), (second, tiny.rows(24, 3), 0.2, quick(epochs=1))])
    assert made == [first, second]
    assert first.classes_ == ("bad", "good") and second.classes_ == ("bad", "good", "sport")
    assert first.adapter.name == second.adapter.name == "default"
    assert first.report.best == {} and "accuracy" in second.report.best
    assert first.predict(["a great film"]) and len(second.predict_proba(["a great film"])[0]) == 3


def test_what_was_learnt_can_be_saved_and_loaded(tmp_path):
    """A tuner after a joint fit saves, loads and answers like one after its own fit; AdaLoRA has become a LoRA."""
    jobs = crew(still("bert"), epochs=1)
    for one in fit_many(jobs):
        rows = [["a", "great", "film"]] if one.name == "tags" else ["a great film"]
        kept = one.predict(rows)
        folder = one.save(tmp_path / one.name)
        assert Tuner.load(folder, one.backbone.model).predict(rows) == kept
    assert isinstance(jobs[3].tuner.adapter.method, LoRA)


def test_a_start_may_be_another_adapter():
    """`continue_from` gives a job the weights, the method and the labels of an adapter, as it does in a fit."""
    model = still("bert")
    start = tuner(model, "start", LoRA(rank=2)).fit(tiny.rows(12), config=quick(epochs=1))
    jobs = [
        Job(tuner(model, "on", "lora"), tiny.rows(12), None, quick(epochs=1), continue_from=start),
        Job(tuner(model, "other", "head"), tiny.rows(12), None, quick(epochs=1)),
    ]
    for one, solo in zip(fit_many(jobs), alone(jobs), strict=True):
        assert apart(one, solo) <= 1e-5
    assert jobs[0].tuner.adapter.method == LoRA(rank=2)


def test_tuners_that_opened_the_same_folder_come_to_share_it(tmp_path):
    """The first one's model serves all; the others move to it, and learn what they would have learnt."""
    folder = tiny.folder("bert", tmp_path, dropout=0.0)
    made = [Tuner(folder, name=name, method=name) for name in ("lora", "head")]
    jobs = [Job(one, tiny.rows(16), None, quick(epochs=1)) for one in made]
    assert made[0].backbone.model is not made[1].backbone.model
    fit_many(jobs)
    assert made[0].backbone.model is made[1].backbone.model
    for one, solo in zip(made, alone(jobs), strict=True):
        assert apart(one, solo) <= 1e-5


def test_data_that_jobs_share_are_encoded_once(monkeypatch):
    """A sweep over rates reads its rows once; other seeds hold out other rows, so they read for themselves."""
    model, seen, rows = still("bert"), [], tiny.rows(16)
    real = fitting_together.prepare
    monkeypatch.setattr(fitting_together, "prepare", lambda *given, **more: seen.append(given) or real(*given, **more))
    reader = tiny.tokenizer("bert")
    jobs = [
        Job(Tuner(model, method="head", tokenizer=reader), rows, 0.25, quick(epochs=1, seed=seed, learning_rate=rate))
        for seed, rate in ((0, 0.1), (0, 0.2), (1, 0.1), (0, 0.3))
    ]
    made = fit_many(jobs)
    assert len(seen) == 2
    assert len({id(one.report.notices) for one in made}) == 4
    assert all(sum("Held out" in notice for notice in one.report.notices) == 1 for one in made)


@pytest.mark.parametrize("knobs", [{"gradient_checkpointing": True}, {"mixed_precision": "bf16"}], ids=str)
def test_checkpointing_and_bf16_are_those_of_a_fit(knobs):
    """Recomputed activations give the same curve; in bf16 the curves differ by what bf16 rounds away."""
    model = still("bert")
    jobs = [
        Job(tuner(model, "one", LoRA(rank=2)), tiny.rows(24), tiny.rows(8), quick(optimizer="sgd", **knobs)),
        Job(tuner(model, "two", "prefix"), tiny.rows(20, 3, seed=1), None, quick(optimizer="sgd", **knobs)),
    ]
    for one, solo in zip(fit_many(jobs), alone(jobs), strict=True):
        assert apart(one, solo) <= (0.03 if knobs.get("mixed_precision") else 1e-5), one.name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_keeps_its_own_trunk(checkpointing):
    """Blocks below an adapter's lowest one run in eval mode for it, whatever acts beside it, evaluations or not."""
    model = tiny.backbone("bert")
    seen: dict[int, set[tuple[bool, ...]]] = {}

    def note(module, args, output):
        if torch.is_grad_enabled():
            seen.setdefault(len(output), set()).add(tuple(block.training for block in model.encoder.layer))

    handle = model.encoder.layer[0].register_forward_hook(note)
    jobs = [
        Job(tuner(model, "all", "lora"), tiny.rows(16), 0.25, quick(batch_size=2)),
        Job(tuner(model, "top", LoRA(top=1)), tiny.rows(24), 0.25, quick(batch_size=3)),
        Job(tuner(model, "probe", "head"), tiny.rows(40), 0.25, quick(batch_size=5)),
    ]
    if checkpointing:
        jobs = again(jobs[:2], gradient_checkpointing=True)
    fit_many(jobs)
    handle.remove()
    assert seen == {2: {(True, True)}, 3: {(False, True)}, **({} if checkpointing else {5: {(False, False)}})}
    assert not any(module.training for module in model.modules())


def test_a_joint_fit_can_be_repeated():
    """With dropout the same jobs with the same seeds give the same bits, whatever was drawn before."""
    model = tiny.backbone("bert")
    rows = tiny.rows(16)
    jobs = [
        Job(tuner(model, "one", LoRA(rank=2, dropout=0.2)), rows, None, quick()),
        Job(tuner(model, "two", "prefix"), rows, None, quick(seed=4)),
    ]
    first = fit_many(jobs)
    torch.rand(5)
    for one, other in zip(first, fit_many(again(jobs)), strict=True):
        assert same(one, other) and losses(one) == losses(other)
    assert losses(first[0]) != losses(alone(jobs)[0])
