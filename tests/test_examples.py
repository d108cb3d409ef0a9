"""The examples run as they stand, on a tiny backbone, and each prints what it promises."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests import media, tiny
from tests.kinds import speech
from tests.language import language_model
from tests.tiny import folder, tokenizer

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
PROMISED = {
    "quickstart": ("trainable parameters", "accuracy", "('bad', 'good')"),
    "relations": ("relation_f1", "Oslo [/E2] . -> ", "Paris[/E2] . -> "),
    "few_shot": ("zero-shot accuracy", "few-shot accuracy", "('bad', 'good')"),
    "ner": ("LOC", "PER", "Carla"),
    "many_tasks_one_backbone": ("('mood', 'kind')", "[(2,), (3,), None]", "A, B, A bit-equal: True", "('kind',)"),
    "merge_and_export": ("Merged 'default'", "adapter_config.json", "True"),
    "dialogue": ("perplexity", "rougeL", "reply: "),
    "translation": ("bleu", "chrf", "with beams: ", "greedy: "),
    "question_answering": ("exact_match", "Who is there?", "probability"),
    "multiple_choice": ("accuracy", "A cat is: "),
    "similarity": ("recall_at_1", "Nearest: ", "vectors of shape (6, 32)", "A pair of texts has a cosine: "),
    "pairs": ("matthews_correlation", "accuracy"),
    "rate_sweep": ("rate-0.0001: loss", "The best one is rate-"),
    "image_classification": ("accuracy", "('circle', 'square')"),
    "speech_to_text": ("wer", "cer", "greedy: ", "with beams: "),
    "audio_classification": ("accuracy", "resampled from 8,000 to 16,000", "('high', 'low')"),
    "instruction": ("perplexity", "rougeL", "answer: ", "reply: "),
    "summarization": ("rougeL", "greedy: ", "with beams: "),
    "plain_text": ("trainable parameters", "padding: 0.0", "perplexity", "goes on: "),
    "many_labels": ("f1_macro", "praised: [", "rmse", "stars: "),
    "your_own_method": ("trainable parameters", "True"),
}


WRITERS = {
    "dialogue": "qwen3",
    "few_shot": "llama",
    "instruction": "llama",
    "plain_text": "gpt2",
    "summarization": "t5",
    "translation": "marian",
}
"""Examples that need a language model, and its family."""


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny language models with their tokenizers, by the example that takes them."""
    made = {}
    for example, family in WRITERS.items():
        made[example] = tmp_path_factory.mktemp(example)
        for part in (language_model(family, max_position_embeddings=256), tokenizer(family)):
            part.save_pretrained(made[example])
    return made


@pytest.fixture(scope="module")
def media_backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny backbones with their processors, by the example that takes them."""
    made = {}
    for example, family, reader in (
        ("image_classification", "dinov2", media.image_processor()),
        ("audio_classification", "wav2vec2", media.feature_extractor()),
        ("speech_to_text", "whisper", speech.reads("whisper")),
    ):
        made[example] = tmp_path_factory.mktemp(example)
        for part in (tiny.backbone(family), reader):
            part.save_pretrained(made[example])
    return made


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with its tokenizer."""
    return folder("bert", tmp_path_factory.mktemp("backbone"))


def run(example: Path, *words: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs an example as `python examples/NAME.py WORDS` would."""
    monkeypatch.setattr(sys, "argv", [str(example), *map(str, words)])
    runpy.run_path(str(example), run_name="__main__")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(
    example: Path,
    backbone: Path,
    writers: dict[str, Path],
    media_backbones: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It runs to its end and prints what it promises; nothing that it compares is different."""
    run(example, {**writers, **media_backbones}.get(example.stem, backbone), monkeypatch=monkeypatch)
    told = capsys.readouterr().out
    assert not [word for word in PROMISED[example.stem] if word not in told], told
    assert "False" not in told.split(), told


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(example: Path) -> None:
    """Fewer than 60 lines, and a docstring with the command that runs it."""
    text = example.read_text(encoding="utf-8")
    assert text.count("\n") < 60
    assert f"python examples/{example.name} [BACKBONE]" in text


def test_ner_reads_conll_files(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With two files named, they are the data."""
    for part in ("train", "test"):
        (tmp_path / f"{part}.conll").write_text("anna B-PER\nsleeps O\n\noslo B-LOC\nsleeps O\n\n" * 6)
    example = next(path for path in EXAMPLES if path.stem == "ner")
    run(example, backbone, tmp_path / "train.conll", tmp_path / "test.conll", monkeypatch=monkeypatch)
    assert "(12 rows)" in capsys.readouterr().out
