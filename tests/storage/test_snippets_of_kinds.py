"""The code on a card runs for every kind of task: what is asked is of the form that its adapter has learnt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers

from petune import TrainConfig, Tuner
from tests import kinds, media, tiny
from tests.kinds import Kind
from tests.storage import making
from tests.tuners import QUIET

ASKED = {
    "answers": "answer.start_logits",
    "choices": "for option in",
    "dialogue": "apply_chat_template",
    "instruction": "apply_chat_template",
    "likeness": "states[:, -1]",
    "partners": "states.mean(1)",
    "summarization": "num_beams=2",
}
"""Kind -> what its lines for peft must hold, because a plain text or `.logits` would be wrong."""


def _base(kind: Kind, place: Path) -> Path:
    """The folder of a tiny backbone that can have this kind."""
    family, auto = kind.families[0], kind.task().auto_class
    own = auto.endswith(("CausalLM", "MaskedLM", "Seq2SeqLM", "SpeechSeq2Seq"))
    made = getattr(transformers, auto).from_config(tiny.config(family)) if own else tiny.backbone(family)
    for part in (made, kind.reads(family)):
        part.save_pretrained(place)
    return place


@pytest.mark.filterwarnings(making.PEFT_WARNS)
@pytest.mark.parametrize("kind", kinds.KINDS.values(), ids=lambda kind: kind.name)
def test_the_code_of_every_kind_runs(kind, tmp_path, monkeypatch, capsys):
    """petune's lines give an answer and peft's run; none are offered that the adapter cannot do."""
    base = _base(kind, tmp_path / "base")
    tuner = Tuner(base, task=kind.task(), method="lora")
    tuner.fit(kind.rows(8), config=TrainConfig(epochs=1, **QUIET))
    folder = tuner.save(tmp_path / "adapter")
    monkeypatch.chdir(folder)
    media.picture_files(tmp_path / "pictures", media.pictures(2))
    media.sound_files(tmp_path / "sounds", media.sounds(2))
    next((tmp_path / "pictures").rglob("*.png")).rename("picture.png")
    next((tmp_path / "sounds").rglob("*.wav")).rename("sound.wav")
    blocks = dict(re.findall(r"With (\w+):\n\n```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.S))
    assert blocks.keys() == ({"petune"} if kind.own_pieces else {"petune", "peft", "transformers"})
    assert ASKED.get(kind.name, "") in blocks.get("peft", "")
    capsys.readouterr()
    for name, code in blocks.items():
        exec(code.replace("path/of/the/backbone", str(base)), {})
        assert name != "petune" or capsys.readouterr().out.strip()
