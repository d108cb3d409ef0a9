"""The one architecture table: where each family keeps its blocks, and which module plays which role in a block.

Paths are relative to the backbone (transformers' base model). A role may name several modules of a block; those
that exist are sites. Where query, key and value are one fused map, that map plays all three roles.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """Where one architecture keeps its parts.

    Args:
        blocks: paths of the lists of blocks, in the order in which data flows through them.
        roles: role -> module paths inside a block.
        embeddings: the path of the table in which the pieces of the input are looked up.
        attention: module paths, inside a block, that call transformers' attention registry; empty: they do not.
        shared_blocks: one block's weights serve every layer (ALBERT).
    """

    blocks: tuple[str, ...]
    roles: dict[str, tuple[str, ...]]
    embeddings: str = "embeddings.word_embeddings"
    attention: tuple[str, ...] = ()
    shared_blocks: bool = False
    fused: bool = field(default=False)
    """query, key and value are one linear map."""
    packs: bool = False
    """A block works piece by piece but for its attention, and asks the registry for that: padding can be left out."""
    borders: bool = False
    """Where positions start anew in a row without a mask, attention sees a border: texts of a packed row stay apart."""


def _roles(
    query: str, key: str, value: str, output: str, ffn_input: str, ffn_output: str
) -> dict[str, tuple[str, ...]]:
    """The six roles of a block; several modules of one role are separated by blanks."""
    named = {
        "query": query,
        "key": key,
        "value": value,
        "attention_output": output,
        "ffn_input": ffn_input,
        "ffn_output": ffn_output,
    }
    return {role: tuple(paths.split()) for role, paths in named.items()}


_BERT_ROLES = _roles(
    "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "intermediate.dense", "output.dense",
)  # fmt: skip
_BERT = Family(("encoder.layer",), _BERT_ROLES, attention=("attention.self",), packs=True)
_LLAMA = Family(
    ("layers",),
    _roles(
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
        "self_attn.o_proj", "mlp.gate_proj mlp.up_proj", "mlp.down_proj",
    ),
    embeddings="embed_tokens",
    attention=("self_attn",),
    packs=True,
    borders=True,
)  # fmt: skip
_VIT_ROLES = _roles(
    "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1 mlp.gate_proj mlp.up_proj",
    "mlp.fc2 mlp.down_proj",
)  # fmt: skip
_VIT = Family(("layers",), _VIT_ROLES, attention=("attention",))
_SELF_AND_CROSS = _roles(
    "self_attn.q_proj encoder_attn.q_proj", "self_attn.k_proj encoder_attn.k_proj",
    "self_attn.v_proj encoder_attn.v_proj", "self_attn.out_proj encoder_attn.out_proj", "fc1", "fc2",
)  # fmt: skip
_BART = Family(("encoder.layers", "decoder.layers"), _SELF_AND_CROSS, "encoder.embed_tokens", ("self_attn",))

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "deberta-v2": Family(
        ("encoder.layer",),
        {
            **_BERT_ROLES,
            "query": ("attention.self.query_proj",),
            "key": ("attention.self.key_proj",),
            "value": ("attention.self.value_proj",),
        },
    ),
    "mpnet": Family(
        ("encoder.layer",),
        _roles(
            "attention.attn.q",
            "attention.attn.k",
            "attention.attn.v",
            "attention.attn.o",
            "intermediate.dense",
            "output.dense",
        ),
    ),
    "albert": Family(
        ("encoder.albert_layer_groups.0.albert_layers",),
        _roles("attention.query", "attention.key", "attention.value", "attention.dense", "ffn", "ffn_output"),
        attention=("attention",),
        shared_blocks=True,
    ),
    "distilbert": Family(
        ("transformer.layer",),
        _roles("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"),
        attention=("attention",),
        packs=True,
    ),
    "modernbert": Family(
        ("layers",),
        _roles("attn.Wqkv", "attn.Wqkv", "attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"),
        embeddings="embeddings.tok_embeddings",
        attention=("attn",),
        fused=True,
        packs=True,
    ),
    "gpt2": Family(
        ("h",),
        _roles("attn.c_attn", "attn.c_attn", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
        embeddings="wte",
        attention=("attn",),
        fused=True,
        packs=True,
        borders=True,
    ),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "opt": Family(("decoder.layers",), _SELF_AND_CROSS, "decoder.embed_tokens", ("self_attn",), packs=True),
    "bart": _BART,
    "marian": _BART,
    "mbart": _BART,
    "m2m_100": _BART,
    "t5": Family(
        ("encoder.block", "decoder.block"),
        _roles(
            "layer.0.SelfAttention.q layer.1.EncDecAttention.q",
            "layer.0.SelfAttention.k layer.1.EncDecAttention.k",
            "layer.0.SelfAttention.v layer.1.EncDecAttention.v",
            "layer.0.SelfAttention.o layer.1.EncDecAttention.o",
            "layer.1.DenseReluDense.wi layer.1.DenseReluDense.wi_0 layer.1.DenseReluDense.wi_1 "
            "layer.2.DenseReluDense.wi layer.2.DenseReluDense.wi_0 layer.2.DenseReluDense.wi_1",
            "layer.1.DenseReluDense.wo layer.2.DenseReluDense.wo",
        ),
        embeddings="encoder.embed_tokens",
        attention=("layer.0.SelfAttention",),
    ),
    "vit": _VIT,
    "deit": _VIT,
    "wav2vec2": Family(
        ("encoder.layers",),
        _roles(
            "attention.q_proj",
            "attention.k_proj",
            "attention.v_proj",
            "attention.out_proj",
            "feed_forward.intermediate_dense",
            "feed_forward.output_dense",
        ),
        attention=("attention",),
    ),
    "whisper": Family(("encoder.layers", "decoder.layers"), _SELF_AND_CROSS, attention=("self_attn",)),
    "dinov2": Family(("encoder.layer",), _VIT_ROLES, attention=("attention",)),
}
"""transformers' `config.model_type` -> family. A new architecture is one entry."""
