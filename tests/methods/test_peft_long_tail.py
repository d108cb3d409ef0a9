"""The long tail: any peft configuration trains, saves, loads, merges and leaves the backbone as it was."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from petune.errors import AdapterError, ConfigError, MergeError
from petune.methods.peft import Peft
from petune.storage.container import digest
from tests import tiny

CONFIGS: dict[str, Any] = {
    "ia3": lambda: peft.IA3Config(
        target_modules=["key", "value", "output.dense"], feedforward_modules=["output.dense"]
    ),
    "dora": lambda: peft.LoraConfig(r=4, use_dora=True, target_modules=["query", "value"]),
    "vera": lambda: peft.VeraConfig(r=8, target_modules=["query", "value"], projection_prng_key=3, d_initial=1.0),
    "oft": lambda: peft.OFTConfig(r=4, oft_block_size=0, target_modules=["query", "value"]),
    "loha": lambda: peft.LoHaConfig(r=4, target_modules=["query", "value"]),
    "ln": lambda: peft.LNTuningConfig(target_modules=["LayerNorm"]),
}
MERGEABLE = ("ia3", "dora", "vera", "oft", "loha")


def _bits(model: nn.Module) -> dict[str, str]:
    return {name: digest(tensor) for name, tensor in model.state_dict().items()}


def _tree(model: nn.Module) -> list[tuple[str, int]]:
    return [(name, id(module)) for name, module in model.named_modules()]


def _batch() -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 90, (8, 6), generator=torch.Generator().manual_seed(1))
    return ids, torch.tensor([0, 1] * 4)


def _out(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=_batch()[0]).last_hidden_state


def _fit(model: nn.Module, parameters: list[nn.Parameter], steps: int = 12) -> list[float]:
    ids, labels = _batch()
    optimizer = torch.optim.AdamW(parameters, lr=2e-2)
    losses = []
    for _ in range(steps):
        logits = model(input_ids=ids).last_hidden_state[:, 0, :2]
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", CONFIGS)
def test_trains_and_leaves_no_trace(kind: str) -> None:
    """The loss falls, and remove gives back the same module objects, flags, bits and outputs."""
    model = tiny.backbone("bert", dropout=0.0)
    model.embeddings.word_embeddings.weight.requires_grad_(False)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    tree, bits, plain, attributes = _tree(model), _bits(model), _out(model), set(model.__dict__)
    injected = Peft(config=CONFIGS[kind]()).inject(model)
    torch.testing.assert_close(_out(model), plain, atol=1e-5, rtol=0)
    parameters = injected.parameters_by_name()
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in parameters.values()}
    losses = _fit(model, list(parameters.values()))
    assert losses[-1] < losses[0] - 0.02
    assert not torch.equal(_out(model), plain)
    injected.remove()
    assert _tree(model) == tree and _bits(model) == bits and set(model.__dict__) == attributes
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert torch.equal(_out(model), plain)


@pytest.mark.parametrize("kind", CONFIGS)
def test_tensors_carry_everything(kind: str) -> None:
    """Tensors of one injection, loaded into a fresh one of another seed, give the same outputs to the bit."""
    model = tiny.backbone("bert", dropout=0.0)
    injected = Peft(config=CONFIGS[kind]()).inject(model)
    _fit(model, list(injected.parameters_by_name().values()), steps=3)
    trained, kept = _out(model), {name: t.clone() for name, t in injected.tensors().items()}
    method = Peft.from_knobs(injected.method.to_knobs())
    injected.remove()
    torch.manual_seed(99)
    again = method.inject(model)
    assert set(again.tensors()) == set(kept)
    again.load(kept)
    assert torch.equal(_out(model), trained)
    again.remove()


@pytest.mark.parametrize("kind", MERGEABLE)
def test_merge_is_the_active_adapter_and_unmerge_is_exact(kind: str) -> None:
    """Merged, the model is a plain one with the adapter's outputs; unmerged, the bits are the old ones."""
    model = tiny.backbone("bert", dropout=0.0)
    tree, bits, keys = _tree(model), _bits(model), set(model.state_dict())
    injected = Peft(config=CONFIGS[kind]()).inject(model)
    _fit(model, list(injected.parameters_by_name().values()), steps=3)
    active = _out(model)
    for _ in range(3):
        injected.merge()
        assert _tree(model) == tree and set(model.state_dict()) == keys and _bits(model) != bits
        torch.testing.assert_close(_out(model), active, atol=1e-4, rtol=0)
        injected.unmerge()
        assert torch.equal(_out(model), active)
    injected.merge()
    with pytest.raises(MergeError, match="merged already"):
        injected.merge()
    injected.remove()
    assert _bits(model) == bits


def test_merge_refuses_what_is_no_weight_change() -> None:
    """LN tuning would replace the modules, so merge refuses and the adapter stays active."""
    model = tiny.backbone("bert", dropout=0.0)
    bits = _bits(model)
    injected = Peft(config=CONFIGS["ln"]()).inject(model)
    _fit(model, list(injected.parameters_by_name().values()), steps=3)
    active = _out(model)
    with pytest.raises(MergeError, match="LN_TUNING"):
        injected.merge()
    assert torch.equal(_out(model), active)
    injected.remove()
    assert _bits(model) == bits


def test_unmerge_without_merge_is_an_error() -> None:
    """Nothing is merged, so there is nothing to undo."""
    injected = Peft(config=CONFIGS["ia3"]()).inject(tiny.backbone("bert"))
    with pytest.raises(MergeError, match="not merged"):
        injected.unmerge()


def test_the_configuration_is_never_changed() -> None:
    """One configuration serves two architectures, which peft's own use of it would prevent."""
    config = peft.LoraConfig(r=2, use_dora=True)
    before = config.to_dict()
    method = Peft(config=config)
    method.inject(tiny.backbone("bert")).remove()
    injected = method.inject(tiny.backbone("gpt2"))
    assert all(path.endswith("c_attn") for path in injected.sites)
    assert config.to_dict() == before and method.config.target_modules is None


def test_all_linear_keeps_off_excluded_modules() -> None:
    """A head part inside the backbone is never a site; the saved method names its sites one by one."""
    model = tiny.backbone("bert")
    injected = Peft(config=peft.LoraConfig(r=2, use_dora=True, target_modules="all-linear")).inject(
        model, exclude=["pooler.dense"]
    )
    assert len(injected.sites) == 12 and "pooler.dense" not in injected.sites
    assert set(injected.method.config.target_modules) == set(injected.sites)


def test_bf16_backbone_gets_float32_adapters() -> None:
    """Half-precision adapter weights learn badly, so they are kept in float32."""
    model = tiny.backbone("bert").to(torch.bfloat16)
    injected = Peft(config=CONFIGS["dora"]()).inject(model)
    assert {p.dtype for p in injected.parameters_by_name().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: peft.PrefixTuningConfig(num_virtual_tokens=2), "method='prefix'"),
        (lambda: peft.PromptTuningConfig(num_virtual_tokens=2), "method='prefix'"),
        (lambda: peft.PromptEncoderConfig(num_virtual_tokens=2), "method='prefix'"),
        (lambda: peft.AdaLoraConfig(total_step=10), "method='adalora'"),
        (lambda: peft.PolyConfig(), "task ids"),
        (lambda: peft.LoraConfig(modules_to_save=["classifier"]), "head"),
        (lambda: peft.LoraConfig(bias="all"), "biases"),
        (lambda: peft.LoraConfig(layer_replication=[(0, 1)]), "layers"),
        (lambda: object(), "PeftConfig"),
        (lambda: {"peft_type": "IA4"}, "IA3"),
        (lambda: {"peft_type": "IA3", "target_modulse": ["key"]}, "target_modules"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(config: Any, words: str) -> None:
    """Each refusal says why, or what to use instead."""
    with pytest.raises(ConfigError, match=words):
        Peft(config=config())


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("bert", lambda: peft.IA3Config(target_modules=["kye"], feedforward_modules=[]), "key"),
        ("bert", lambda: peft.LoraConfig(target_modules=["query", "vaule"]), "value"),
        ("distilbert", lambda: peft.HRAConfig(), "q_lin"),
        ("bert", lambda: peft.LoraConfig(init_lora_weights="pissa", target_modules=["query"]), "rewrites"),
        ("bert", lambda: None, "needs a configuration"),
    ],
)
def test_what_cannot_be_put_in_leaves_the_model_as_it_was(family: str, config: Any, words: str) -> None:
    """A typo in a target, missing targets and kinds that rewrite weights are errors that change nothing."""
    model = tiny.backbone(family)
    tree, bits = _tree(model), _bits(model)
    flags = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ConfigError, match=words):
        Peft(config=config()).inject(model)
    assert _tree(model) == tree and _bits(model) == bits
    assert [p.requires_grad for p in model.parameters()] == flags


def test_peft_is_the_method_of_its_name_without_layers() -> None:
    """It can be made without arguments, acts at no role, and makes no layers of petune's kind."""
    assert Peft().roles() == () and Peft().residence == "sole"
    with pytest.raises(ConfigError):
        Peft().layer(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="target_modules"):
        Peft(top=2)


def test_load_is_strict() -> None:
    """Missing, unknown and misshapen tensors are errors, and nothing is copied before all is checked."""
    injected = Peft(config=CONFIGS["dora"]()).inject(tiny.backbone("bert"))
    kept = {name: t.clone() for name, t in injected.tensors().items()}
    name = sorted(kept)[0]
    for wrong in (
        {k: v for k, v in kept.items() if k != name},
        {**kept, "model.x": kept[name]},
        {**kept, name: torch.ones(1)},
    ):
        changed = {k: v + 1 for k, v in wrong.items()}
        with pytest.raises(AdapterError):
            injected.load(changed)
    assert all(torch.equal(t, kept[k]) for k, t in injected.tensors().items())


@pytest.mark.parametrize("field", [{"target_modules": "(a+)+$"}, {"rank_pattern": {"(a+)+$": 2}}])
def test_expressions_from_files_are_refused(field: dict[str, Any]) -> None:
    """A regular expression in a file could hang the reader."""
    with pytest.raises(ConfigError, match="expression"):
        Peft.from_knobs({"config": {"peft_type": "LORA", "use_dora": True, **field}})


def test_importing_the_method_does_not_import_peft() -> None:
    """peft costs seconds; it is imported with the first configuration."""
    code = "import sys, petune.methods.peft; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
