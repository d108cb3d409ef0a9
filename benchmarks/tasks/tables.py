"""The sections of all tasks as one table: what each was trained on, and the figures that its papers quote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = {
    "audio-classification": ("accuracy", "f1_macro"),
    "causal-lm": ("perplexity",),
    "dialogue": ("perplexity", "rougeL", "chrf"),
    "image-classification": ("accuracy", "f1_macro"),
    "instruction": ("perplexity", "rougeL", "chrf"),
    "multi-label": ("f1_micro", "f1_macro"),
    "multiple-choice": ("accuracy",),
    "pairs": ("accuracy", "matthews_correlation"),
    "prompt-classification": ("accuracy",),
    "question-answering": ("exact_match", "token_f1"),
    "regression": ("spearman", "mae"),
    "relation-extraction": ("relation_f1", "relation_f1_macro"),
    "similarity": ("recall_at_1", "recall_at_5"),
    "speech-to-text": ("wer", "cer"),
    "summarization": ("perplexity", "rougeL", "chrf"),
    "translation": ("perplexity", "bleu", "chrf"),
}
"""Section -> its figures; all others are in the result file."""
HEAD = ("task", "backbone, method", "data", "rows (train, test)", "figures", "seconds")


def table(found: dict[str, Any]) -> str:
    """One row a section: an arrow leads from what the model did before training to what it does after."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|---|---|---:|---|---:|"]
    for name, section in sorted(found["tasks"].items()):
        first, second, *_ = section["rows"].values()
        cells = (
            f"`{section['task']}`" if section["task"] == name else f"`{section['task']}`, {name}",
            f"{section['backbone']}, {section['method']}",
            f"{section['data']}{' (synthetic)' if section['synthetic'] else ''}",
            f"{first:,}, {second:,}",
            ", ".join(_figure(figure, section["scores"]) for figure in SHOWN[name]),
            f"{section['seconds']:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(name: str, scores: Mapping[str, Mapping[str, float]]) -> str:
    before, after = scores.get("before", scores.get("a guess", {})), scores["after"]
    told = f"{before[name]:.3g} → {after[name]:.3g}" if name in before else f"{after[name]:.3g}"
    return f"{name.replace('_', ' ')} {told}"
