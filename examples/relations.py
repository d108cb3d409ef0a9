"""Relations between two marked entities: markers of the adapter's own, and F1 without "no relation".

python examples/relations.py [BACKBONE]
"""

from __future__ import annotations

import sys
from itertools import product
from typing import Any

from petune import RelationExtraction, TrainConfig, Tuner

PEOPLE, PLACES = ("Anna", "Boris Lane", "Carla"), ("Paris", "Oslo", "New York")
FORMS = {
    "lives_in": ("{who} lives in {where} .", "{where} is the home of {who} .", "{who} , of {where} , sings ."),
    "no_relation": ("{who} fears storms over {where} .", "{where} bored {who} .", "{who} sent a map of {where} ."),
}


def sentences() -> list[dict[str, Any]]:
    """Synthetic rows: a text, the two spans in characters, and the relation."""
    made = []
    for relation, forms in FORMS.items():
        for form, who, where in product(forms, PEOPLE, PLACES):
            text = form.format(who=who, where=where)
            spans = {key: (text.index(name), text.index(name) + len(name)) for key, name in
                     (("head", who), ("tail", where))}  # fmt: skip
            made.append({"text": text, **spans, "relation": relation})
    return made


def main(backbone: str) -> None:
    rows = sentences()
    tuner = Tuner(backbone, task=RelationExtraction(), method="lora", name="relations")
    tuner.fit(rows, eval_data=0.2, config=TrainConfig(epochs=8, batch_size=4))
    print(tuner.evaluate(rows))
    # Marked texts are understood as well.
    for text in ("[E1] Carla [/E1] lives in [E2] Oslo [/E2] .", "[E1]Anna[/E1] fears storms over [E2]Paris[/E2] ."):
        print(text, "->", tuner.predict([text])[0])


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["sentence-transformers/all-MiniLM-L6-v2"]))
