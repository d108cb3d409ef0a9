"""Relations between two names, in sentences made from templates: synthetic.

The names are those of CoNLL-2003 (persons, organisations, places); no name of the test part was seen in
training. Each relation has six templates, four for training and two for the test, so that wording is new as well.
Half of the templates tell no relation, and a sixth of the pairs have head and tail the other way round.
"""

from __future__ import annotations

import random
from typing import Any

from benchmarks import real_data
from petune import RelationExtraction, TrainConfig, Tuner

TRAIN, TEST = 600, 300
SEEN = 4
"""Templates of each relation that training sees."""
TEMPLATES = {
    ("born_in", "PER", "LOC"): (
        "{head} was born in {tail} .", "{head} , a native of {tail} , won the match .",
        "Born in {tail} , {head} moved abroad as a child .", "{tail} is the birthplace of {head} .",
        "{head} came into the world in {tail} .", "The family of {head} lived in {tail} when he was born .",
    ),
    ("works_for", "PER", "ORG"): (
        "{head} works for {tail} .", "{head} , a spokesman of {tail} , declined to comment .",
        "{tail} hired {head} last year .", "{head} has been employed at {tail} since 1990 .",
        "{tail} analyst {head} said so on Monday .", "{head} joined {tail} as a director .",
    ),
    ("based_in", "ORG", "LOC"): (
        "{head} has its headquarters in {tail} .", "{head} , based in {tail} , reported a loss .",
        "The {tail} company {head} cut jobs .", "{head} runs its business from {tail} .",
        "The main office of {head} is in {tail} .", "{tail}-based {head} announced a merger .",
    ),
    ("no_relation", "PER", "LOC"): (
        "{head} said that floods had hit {tail} .", "{head} spoke by telephone about the vote in {tail} .",
        "Police in {tail} were asked by {head} for help .", "{head} had never heard of {tail} .",
        "A letter from {tail} reached {head} late .", "{head} wrote about the war near {tail} .",
    ),
    ("no_relation", "PER", "ORG"): (
        "{head} criticised {tail} for its prices .", "{head} met a lawyer who had sued {tail} .",
        "{tail} refused to answer {head} .", "{head} bought a car that {tail} had built .",
        "Shares of {tail} rose , said {head} .", "{head} lost a case against {tail} .",
    ),
    ("no_relation", "ORG", "LOC"): (
        "{head} shipped oil to {tail} .", "{head} warned of storms over {tail} .",
        "{tail} banned imports by {head} .", "{head} has no customers in {tail} .",
        "Protests against {head} spread in {tail} .", "{head} lent money to {tail} .",
    ),
}  # fmt: skip


def run(seed: int) -> dict[str, Any]:
    """LoRA for four epochs; what "no_relation" for every pair would score has an F1 of 0."""
    parts = real_data.conll2003()
    train = sentences(names(parts["train"]), TRAIN, range(SEEN), seed)
    test = sentences(names(parts["test"], names(parts["train"])), TEST, range(SEEN, 6), seed + 1)
    tuner = Tuner(str(real_data.encoder_folder()), task=RelationExtraction())
    tuner.fit(train, config=TrainConfig(epochs=4, batch_size=16, learning_rate=1e-3, seed=seed, progress="off"))
    return {
        "task": "relation-extraction",
        "method": "lora",
        "backbone": "all-MiniLM-L6-v2",
        "data": "templates around CoNLL-2003's names",
        "synthetic": True,
        "rows": {"train": len(train), "test": len(test)},
        "scores": {"after": dict(tuner.evaluate(test))},
        "seconds": round(tuner.report.seconds, 1),
    }


def names(rows: list[dict[str, Any]], seen: dict[str, list[str]] | None = None) -> dict[str, list[str]]:
    """The names of each kind in a part, without those that were seen elsewhere."""
    found: dict[str, dict[str, None]] = {kind: {} for kind in ("PER", "ORG", "LOC")}
    for row in rows:
        words, kind = [], ""
        for word, tag in [*zip(row["tokens"], row["tags"], strict=True), ("", "O")]:
            if words and tag != f"I-{kind}":
                if kind in found and not (seen and " ".join(words) in seen[kind]):
                    found[kind][" ".join(words)] = None
                words = []
            if tag != "O":
                words, kind = [*words, word], tag[2:]
    return {kind: list(those) for kind, those in found.items()}


def sentences(known: dict[str, list[str]], count: int, which: range, seed: int) -> list[dict[str, Any]]:
    """So many rows of text, two spans in characters, and the relation."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        (relation, first, second), templates = draw.choice(list(TEMPLATES.items()))
        template = templates[draw.choice(which)]
        head, tail = draw.choice(known[first]), draw.choice(known[second])
        before, _, after = template.partition("{head}")
        text = before.replace("{tail}", tail) + head + after.replace("{tail}", tail)
        start = len(before.replace("{tail}", tail))
        other = template.index("{tail}")
        other += len(head) - len("{head}") if other > template.index("{head}") else 0
        spans = [(start, start + len(head)), (other, other + len(tail))]
        if draw.random() < 1 / 6:
            spans, relation = spans[::-1], "no_relation"
        made.append({"text": text, "head": spans[0], "tail": spans[1], "relation": relation})
    return made
