"""Sites: roles and layers in each family, the user's own names, and what a wrong wish is answered."""

from __future__ import annotations

import pytest
import torch
import transformers

from petune import LoRA, Prefix, TrainConfig, Tuner
from petune.errors import BackboneError, ConfigError, UnknownNameError
from petune.methods.lora import LINEAR_ROLES
from petune.model.bank import Bank
from petune.model.merging import merge
from petune.model.running import run
from tests import tiny
from tests.conformance.subjects import add, batch, differ, method, open_backbone, tokenizer
from tests.covering import NO_PREFIX


def sites(family: str, recipe) -> list:
    """The sites of a method on a tiny backbone."""
    backbone = open_backbone(family)
    return backbone.sites(backbone.model, recipe)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_role_is_there_in_every_block(family):
    """Each role of the table is a module of each block, and every linear map of a block has a role."""
    backbone = open_backbone(family)
    found = backbone.sites(backbone.model, LoRA())
    blocks = backbone.blocks(backbone.model)
    assert {site.block for site in found} == set(range(len(blocks)))
    linear = {
        f"{path}.{name}"
        for path, block in blocks
        for name, module in block.named_modules()
        if (hasattr(module, "in_features") or hasattr(module, "nx"))
        and "pos_" not in name  # DeBERTa's maps of relative positions
    }
    assert {site.path for site in found} == linear
    for site in found:
        assert backbone.model.get_submodule(site.path) is site.output


@pytest.mark.parametrize("family", [f for f in tiny.FAMILIES if f not in NO_PREFIX])
def test_a_prefix_knows_the_key_heads(family):
    """The attention sites carry the numbers of key heads and their size, grouped keys included."""
    grouped = family in ("llama", "qwen2", "qwen3")
    for site in sites(family, Prefix()):
        assert (site.heads, site.head_size) == (1 if grouped else 2, 16)


@pytest.mark.parametrize("family", [f for f in tiny.FAMILIES if f != "albert"])
def test_top_and_layers_choose_blocks(family):
    """`top=1` is the last block, `layers=(0,)` the first; together they are refused."""
    everything = {site.block for site in sites(family, method("lora"))}
    assert {site.block for site in sites(family, method("lora", top=1))} == {max(everything)}
    assert {site.block for site in sites(family, method("lora", layers=(0,)))} == {0}
    with pytest.raises(ConfigError, match="contradict"):
        method("lora", layers=(0,), top=1)


@pytest.mark.parametrize(
    ("knobs", "word"),
    [({"top": 9}, "more than the 2 blocks"), ({"layers": (7,)}, "no block 7"), ({"layers": (-1,)}, "no block -1")],
)
def test_blocks_that_are_not_there(knobs, word):
    """Too many blocks, or one out of range, is refused when the tuner is made."""
    with pytest.raises(ConfigError, match=word):
        Tuner(tiny.backbone("bert"), method=LoRA(**knobs), tokenizer=tokenizer("bert"))


@pytest.mark.parametrize("knobs", [{"top": 1}, {"layers": (0,)}])
def test_shared_blocks_cannot_be_chosen_from(knobs):
    """ALBERT's layers are one block: `top` and `layers` are refused at construction."""
    with pytest.raises(ConfigError, match="share one block"):
        Tuner(tiny.backbone("albert"), method=LoRA(**knobs), tokenizer=tokenizer("albert"))


@pytest.mark.parametrize("family", NO_PREFIX)
def test_prefix_is_refused_where_the_registry_is_not_asked(family):
    """DeBERTa-v2 and MPNet refuse prefix tuning at construction, with the reason and other methods."""
    with pytest.raises(BackboneError, match=r"registry.*lora"):
        Tuner(tiny.backbone(family), method="prefix", tokenizer=tokenizer(family))


def test_a_misspelt_role_is_answered_with_the_near_one():
    """`targets=("querry",)` names `query`."""
    with pytest.raises(UnknownNameError, match="'query'"):
        Tuner(tiny.backbone("bert"), method=LoRA(targets=("querry",)), tokenizer=tokenizer("bert"))


@pytest.mark.parametrize(
    ("name", "near"), [("q_lim", "q_lin"), ("transformer.layer.0.attention.q_lim", "layer.0.attention.q_lin")]
)
def test_a_misspelt_module_is_answered_with_the_near_one(name, near):
    """Own module names, endings or full paths, must match something."""
    with pytest.raises(UnknownNameError, match=near):
        Tuner(tiny.backbone("distilbert"), method=LoRA(modules=(name,)), tokenizer=tokenizer("distilbert"))


def test_an_ending_is_a_whole_name():
    """`modules=("lin1",)` matches `ffn.lin1` and not `ffn.other_lin1`; modules without a width do not count."""
    assert {site.path.rsplit(".", 1)[1] for site in sites("distilbert", LoRA(modules=("lin1",)))} == {"lin1"}
    with pytest.raises(UnknownNameError):
        sites("distilbert", LoRA(modules=("in1",)))
    with pytest.raises(UnknownNameError):
        sites("distilbert", LoRA(modules=("sa_layer_norm",)))


@pytest.mark.parametrize(
    ("config", "modules"),
    [
        ("MistralConfig", ("q_proj", "v_proj")),
        ("GPTNeoXConfig", ("query_key_value",)),
        ("GemmaConfig", ("layers.1.mlp.down_proj",)),
    ],
)
def test_an_architecture_outside_of_the_table_takes_own_names(config, modules):
    """Any other architecture trains through the user's own module names, and says so when they are missing."""
    shape = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 64, "vocab_size": 200, "max_position_embeddings": 64, "head_dim": 16,
    }  # fmt: skip
    shape |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    model = transformers.AutoModel.from_config(getattr(transformers, config)(**shape))
    with pytest.raises(BackboneError, match=r"not in petune's table.*modules=\(\.\.\.\).*" + modules[0].split(".")[-1]):
        Tuner(model, tokenizer=tokenizer("llama"))
    tuner = Tuner(model, method=LoRA(rank=4, modules=modules), tokenizer=tokenizer("llama"))
    assert tuner.plan().sites
    tuner.fit(tiny.rows(8), config=QUIET)
    said = tuner.predict_proba(["a great film"])
    tuner.merge()
    assert tuner.merge_receipt.max_logit_difference <= 1e-4
    assert abs(tuner.predict_proba(["a great film"]) - said).max() <= 1e-5


def test_top_with_own_names_outside_of_the_table():
    """Blocks are unknown there, so `top` is refused and not ignored."""
    model = transformers.AutoModel.from_config(transformers.MistralConfig(**SMALL_MISTRAL))
    with pytest.raises(ConfigError, match="need an architecture of the table"):
        Tuner(model, method=LoRA(modules=("q_proj",), top=1), tokenizer=tokenizer("llama"))


def test_own_names_with_top_inside_of_the_table():
    """With a known family, own names and `top` go together."""
    found = sites("bert", LoRA(modules=("query",), top=1))
    assert [site.path for site in found] == ["encoder.layer.1.attention.self.query"]


def test_a_fused_map_is_one_site():
    """GPT-2's `c_attn` plays query, key and value and gets one layer; its Conv1D is transposed, and merges."""
    found = sites("gpt2", LoRA(targets=("query", "key", "value")))
    assert [site.path for site in found] == ["h.0.attn.c_attn", "h.1.attn.c_attn"]
    assert all(site.transposed and (site.d_in, site.d_out) == (32, 96) for site in found)
    bank, inputs = Bank(open_backbone("gpt2")), batch("gpt2", "single")
    adapter = add(bank, "mine", method("lora"), "single")
    with torch.no_grad():
        active = run(bank, bank.frame("mine"), inputs).logits
        merge(bank, adapter)
        assert differ(run(bank, bank.frame("mine"), inputs).logits, active) <= 1e-5


def test_linear_roles_are_six():
    """The default of LoRA is every linear map of a block."""
    assert LoRA().roles() == LINEAR_ROLES
    assert len(LINEAR_ROLES) == 6


SMALL_MISTRAL = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 200,
}  # fmt: skip
QUIET = TrainConfig(epochs=1, progress="off")
