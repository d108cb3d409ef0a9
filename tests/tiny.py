"""Tiny backbones of every family, their tokenizers, and rows that can be learnt: all made here, nothing is downloaded.

    backbone("bert")                    a 2-layer, 32-wide BertModel with random weights, in eval mode
    folder("bert", tmp_path)            the same with its tokenizer, as a folder for `Tuner(folder)`
    rows(40, classes=3)                 [{"text": ..., "label": ...}, ...], the label told by key words

The weights are larger than transformers would make them (0.2 instead of 0.02): at 0.02 a 32-wide random model
tells no two texts apart, and a wrong result hides below every tolerance.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from tests import media

WIDTH, BLOCKS, HEADS, VOCABULARY, LONGEST = 32, 2, 2, 200, 64

_PLAIN = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    # RoBERTa's kind counts positions from padding_idx + 1, so a few more than LONGEST.
    "max_position_embeddings": LONGEST + 4,
}
_DECODER = {**_PLAIN, "num_key_value_heads": 1}
_BART = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", BLOCKS), ("ffn_dim", 64))}
_BART |= {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS, "d_model": WIDTH}

_SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", _PLAIN),
    "roberta": ("RobertaConfig", _PLAIN),
    "xlm-roberta": ("XLMRobertaConfig", _PLAIN),
    "distilbert": (
        "DistilBertConfig",
        {"dim": WIDTH, "n_layers": BLOCKS, "n_heads": HEADS, "hidden_dim": 64, "max_position_embeddings": LONGEST},
    ),
    "deberta-v2": (
        "DebertaV2Config",
        {**_PLAIN, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]},
    ),
    "electra": ("ElectraConfig", {**_PLAIN, "embedding_size": 16}),
    "albert": ("AlbertConfig", {**_PLAIN, "embedding_size": 16}),
    "mpnet": ("MPNetConfig", _PLAIN),
    # One global and one local layer, so that both kinds of attention and of position are there.
    "modernbert": ("ModernBertConfig", {**_PLAIN, "local_attention": 8, "global_attn_every_n_layers": 2}),
    "gpt2": ("GPT2Config", {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": HEADS, "n_positions": LONGEST}),
    "llama": ("LlamaConfig", _DECODER),
    "qwen2": ("Qwen2Config", _DECODER),
    "qwen3": ("Qwen3Config", {**_DECODER, "head_dim": 16}),
    "opt": (
        "OPTConfig",
        {
            "hidden_size": WIDTH,
            "num_hidden_layers": BLOCKS,
            "num_attention_heads": HEADS,
            "ffn_dim": 64,
            "word_embed_proj_dim": WIDTH,
            "max_position_embeddings": LONGEST,
        },
    ),
    "t5": ("T5Config", {"d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_layers": BLOCKS, "num_heads": HEADS}),
    "bart": ("BartConfig", {**_BART, "max_position_embeddings": LONGEST}),
    "marian": ("MarianConfig", {**_BART, "max_position_embeddings": LONGEST}),
    "mbart": ("MBartConfig", {**_BART, "max_position_embeddings": LONGEST}),
}
WRITE_ONLY = ("marian", "mbart")
"""Families whose models write, and have no classifiers (or no need of one more test of BART's)."""
FAMILIES: tuple[str, ...] = tuple(family for family in _SHAPES if family not in WRITE_ONLY)
"""Those that read texts."""

MEDIA: tuple[str, ...] = tuple(media.SHAPES)
"""Those that read pictures or sounds."""

WITH_TOKEN_TYPES = ("bert", "electra", "albert", "deberta-v2")
"""Families whose tokenizers give `token_type_ids`."""

_FAIRSEQ = ("roberta", "xlm-roberta", "mpnet", "opt", "bart", "mbart")
"""Families whose special tokens come in fairseq's order; MPNet has its padding index 1 written into the code."""


def specials(family: str = "bert") -> tuple[str, ...]:
    """The special tokens in the order of their ids, from 0."""
    if family in _FAIRSEQ:
        return ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    return ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def config(family: str, *, dropout: float = 0.1, **changes: Any) -> PreTrainedConfig:
    """The tiny configuration of a family, with the ids of `tokenizer(family)` and every dropout set to `dropout`."""
    name, shape = {**_SHAPES, **media.SHAPES}[family]
    ids = {token: i for i, token in enumerate(specials(family))}
    tokens = {"pad_token_id": ids["[PAD]"], "bos_token_id": ids["[CLS]"], "eos_token_id": ids["[SEP]"]}
    if family == "modernbert":
        tokens |= {"cls_token_id": ids["[CLS]"], "sep_token_id": ids["[SEP]"]}
    if family in ("t5", "bart", "marian", "mbart"):
        tokens |= {"decoder_start_token_id": ids["[PAD]" if family in ("t5", "marian") else "[SEP]"]}
    texts = {"vocab_size": VOCABULARY, **tokens} if family in _SHAPES else {}
    made = getattr(transformers, name)(**{**texts, **shape, **changes})
    spread = next((key for key in ("initializer_range", "init_std") if hasattr(made, key)), None)
    if spread and spread not in changes:  # T5 scales by its widths instead
        setattr(made, spread, 0.2)
    for key, value in made.to_dict().items():
        if "drop" in key and "layerdrop" not in key and isinstance(value, int | float) and key not in changes:
            setattr(made, key, dropout)
    return made


def backbone(family: str, seed: int = 0, *, dropout: float = 0.1, **changes: Any) -> PreTrainedModel:
    """A backbone with random weights, the same ones for the same arguments, in eval mode."""
    return _seeded(AutoModel, config(family, dropout=dropout, **changes), seed)


def _seeded(auto_class: Any, made: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """Builds under a seed of its own; the caller's random state stays what it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto_class.from_config(made).eval()


KEYS: tuple[tuple[str, ...], ...] = (
    ("awful", "boring", "dull", "hated"),
    ("great", "lovely", "superb", "enjoyed"),
    ("goal", "team", "match", "playing"),
    ("vote", "party", "law", "elected"),
    ("market", "bank", "price", "trading"),
    ("planet", "atom", "cell", "testing"),
)
"""The key words of each class: a row holds two of its own class and none of another."""
LABELS = ("bad", "good", "sport", "state", "trade", "science")
_FILLER = "the a film it was and we saw that story with some old man in his house walking slowly today"
FILLER = tuple(_FILLER.split())
PEOPLE, PLACES = ("anna", "boris", "carla", "dimitrios"), ("paris", "london", "oslo", "timbuktu")
WORDS: tuple[str, ...] = (*(word for keys in KEYS for word in keys), *FILLER, *PEOPLE, *PLACES)
_SPLIT = ("hated", "enjoyed", "playing", "elected", "trading", "testing", "walking", "slowly", "dimitrios", "timbuktu")
"""Words that are left out of the vocabulary, so they come in pieces."""
_PIECES = ("hat", "enjoy", "play", "elect", "trad", "test", "walk", "slow", "##ing", "##ed", "##ly", "##s")


@cache
def _vocabulary(family: str, words: tuple[str, ...]) -> dict[str, int]:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = [*specials(family), *_PIECES, *letters, *(f"##{x}" for x in letters), *".,!?'-:"]
    tokens += [word for word in words if word not in _SPLIT]
    assert len(set(tokens)) <= VOCABULARY, "the backbones' embeddings have no more rows"
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def tokenizer(family: str = "bert", *, words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """A real WordPiece tokenizer, [CLS] text [SEP]; every ASCII word is in reach, by letters if need be.

    It fits every family: T5's and BART's classifiers pool at the end-of-sequence token, which is [SEP] here.
    Only Qwen2 gets its own kind, byte pairs without [CLS] and [SEP]: transformers reads a Qwen2 folder no other way.
    """
    if family == "qwen2":
        return _byte_pairs(words)
    vocabulary = _vocabulary(family, tuple(words))
    engine = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=40))
    engine.normalizer = normalizers.BertNormalizer(lowercase=True)
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece()
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    token_types = ["token_type_ids"] if family in WITH_TOKEN_TYPES else []
    return PreTrainedTokenizerFast(
        tokenizer_object=engine,
        model_max_length=LONGEST,
        model_input_names=["input_ids", *token_types, "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        bos_token="[CLS]",
        eos_token="[SEP]",
    )


@cache
def _trained_pairs(words: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ascii_letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(specials("qwen2")),
        initial_alphabet=[*ascii_letters, "Ġ"],
        show_progress=False,
    )
    engine.train_from_iterator([" ".join(["", *words])], trainer)
    model = json.loads(engine.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _byte_pairs(words: Sequence[str]) -> PreTrainedTokenizerFast:
    vocabulary, merges = _trained_pairs(tuple(words))
    names = {"unk_token": "[UNK]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    return Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST, **names)


def folder(family: str, place: Path, seed: int = 0, *, dropout: float = 0.1, **changes: Any) -> Path:
    """A transformers folder with backbone and tokenizer, as `Tuner(folder)` takes it."""
    return _saved(backbone(family, seed, dropout=dropout, **changes), family, place / f"tiny-{family}-{seed}")


def mlm_folder(family: str, place: Path, seed: int = 0, *, dropout: float = 0.1, **changes: Any) -> Path:
    """The folder of a masked language model; BERT's kind has no pooler there, so it must be made with the head."""
    made = _seeded(AutoModelForMaskedLM, config(family, dropout=dropout, **changes), seed)
    return _saved(made, family, place / f"tiny-{family}-mlm-{seed}")


def _saved(model: PreTrainedModel, family: str, path: Path) -> Path:
    model.save_pretrained(path)
    tokenizer(family).save_pretrained(path)
    return path


def rows(n: int, classes: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """`n` rows of text and label, the classes in turn; two key words tell the class."""
    draw = random.Random(seed)
    return [{"text": _text(draw, [i % classes]), "label": LABELS[i % classes]} for i in range(n)]


def multi_rows(n: int, classes: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    """`n` rows of text and a list of labels, from none to all of them."""
    draw = random.Random(seed)
    drawn = [sorted(draw.sample(range(classes), k=i % (classes + 1))) for i in range(n)]
    return [{"text": _text(draw, present), "label": [LABELS[c] for c in present]} for present in drawn]


def score_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """`n` rows of text and a score: good words count up, bad ones down."""
    draw = random.Random(seed)
    drawn = [draw.choices((0, 1), k=i % 4) for i in range(n)]
    return [{"text": _text(draw, ups, each=1), "label": float(2 * sum(ups) - len(ups))} for ups in drawn]


def _text(draw: random.Random, classes: Sequence[int], each: int = 2) -> str:
    words = draw.choices(FILLER, k=draw.randint(2, 8))
    for c in classes:
        words += draw.sample(KEYS[c], k=each)
    draw.shuffle(words)
    return " ".join(words)


def tag_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """`n` rows of words and BIO tags: one or two people and places a row, some of them two words long."""
    draw = random.Random(seed)
    made = []
    for _ in range(n):
        tokens: list[str] = []
        tags: list[str] = []
        for kind, known in draw.sample((("PER", PEOPLE), ("LOC", PLACES)), k=draw.randint(1, 2)):
            filler = draw.choices(FILLER, k=draw.randint(1, 4))
            span = draw.choices(known, k=draw.randint(1, 2))
            tokens += [*filler, *span]
            tags += ["O"] * len(filler) + [f"B-{kind}"] + [f"I-{kind}"] * (len(span) - 1)
        made.append({"tokens": tokens, "tags": tags})
    return made
