"""Dialogues from end to end: what is learnt is said, the template rests with the adapter, adapters share batches."""

from __future__ import annotations

import pytest

from petune import AdaptedModel, CausalLM, Dialogue, Instruction, TrainConfig, Tuner
from petune.errors import AdapterError, DataError
from petune.tasks._templates import PLAIN
from tests import tiny
from tests.conformance.subjects import method
from tests.language import language_model
from tests.tasks.test_dialogue import CHATML, tokenizer

ANSWERS = {"a film": "great", "some man": "awful", "his house": "lovely", "we saw": "dull"}
ROWS = [
    {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
    for asked, said in ANSWERS.items()
]
CONFIG = TrainConfig(epochs=80, batch_size=2, learning_rate=1e-2, progress="off")


MODEL = language_model("qwen3", max_position_embeddings=128)


def tuner(template: str | None, name: str = "default") -> Tuner:
    """A tuner that has learnt four replies by heart."""
    made = Tuner(
        MODEL, task=Dialogue(max_new_tokens=8), method=method("lora"), tokenizer=tokenizer("qwen3", template), name=name
    )
    return made.fit(ROWS, config=CONFIG)


@pytest.fixture(scope="module", params=[None, CHATML], ids=["plain", "chatml"])
def chatty(request: pytest.FixtureRequest) -> Tuner:
    """One with the plain template, one with a template of its own."""
    return tuner(request.param)


def test_it_says_what_it_learnt_and_stops(chatty):
    """Replies end where the template ends them, although the checkpoint's own end is another piece."""
    assert [chatty.chat(asked) for asked in ANSWERS] == [*ANSWERS.values()]
    assert chatty.predict([[{"role": "user", "content": asked}] for asked in ANSWERS]) == [*ANSWERS.values()]
    figures = chatty.evaluate(ROWS)
    assert figures["rougeL"] == 1.0 and figures["perplexity"] < 3


def test_a_conversation_goes_on(chatty):
    """`chat` takes all that was said so far, and gives one reply; options are those of `generate`."""
    talk = [*ROWS[0]["messages"], {"role": "user", "content": "some man"}]
    first = chatty.chat(talk, max_new_tokens=3)
    assert first == chatty.generate([talk], max_new_tokens=3)[0]
    assert isinstance(chatty.chat(talk, do_sample=True, seed=4), str)
    with pytest.raises(DataError, match="the last turn is the assistant's"):
        chatty.chat(talk[:2])
    with pytest.raises(DataError, match="no turn is a user's"):
        chatty.chat([{"role": "system", "content": "be kind"}])


def test_the_template_rests_with_the_adapter(chatty, tmp_path):
    """A loaded adapter needs no arguments, although the backbone's own tokenizer knows no chat."""
    chatty.save(tmp_path)
    loaded = Tuner.load(tmp_path, backbone=MODEL)
    assert loaded.tokenizer.chat_template == chatty.tokenizer.chat_template
    assert [loaded.chat(asked) for asked in ANSWERS] == [*ANSWERS.values()]
    assert loaded.evaluate(ROWS) == chatty.evaluate(ROWS)


def test_dialogues_and_others_share_a_batch():
    """Each row by its own adapter: a dialogue, an instruction and a completion are written in one call."""
    talks = tuner(None, name="talks")
    pairs = [{"instruction": asked, "output": said} for asked, said in ANSWERS.items()]
    plain = [{"prompt": asked, "completion": said} for asked, said in ANSWERS.items()]
    others = {
        "tells": (Instruction(max_new_tokens=8), pairs),
        "goes on": (CausalLM(max_new_tokens=8), plain),
    }
    adapted = AdaptedModel(MODEL, tokenizer=tiny.tokenizer("qwen3")).add("talks", talks)
    for name, (task, rows) in others.items():
        made = Tuner(MODEL, task=task, method=method("bottleneck"), tokenizer=tiny.tokenizer("qwen3"), name=name)
        adapted.add(name, made.fit(rows, config=CONFIG))
    texts = [*ANSWERS][:3]
    assert adapted.predict(texts, adapters=["talks", "tells", "goes on"]) == [ANSWERS[text] for text in texts]


def test_other_tasks_do_not_chat():
    """A completion is no reply; the tasks that chat are named."""
    made = Tuner(language_model("llama"), task=CausalLM(max_new_tokens=4), tokenizer=tiny.tokenizer("llama"))
    made.fit([{"prompt": "a", "completion": "b"}] * 2, config=TrainConfig(epochs=1, progress="off"))
    with pytest.raises(AdapterError, match=r"trained for causal-lm: it holds no dialogue.*dialogue and instruction"):
        made.chat("a film")


def test_what_was_given_is_told():
    """The columns found and the template given are in the report."""
    made = tuner(None)
    assert any("messages column: 'messages'" in notice for notice in made.report.notices)
    assert any("a plain one is used" in notice for notice in made.report.notices)
    assert made.tokenizer.chat_template == PLAIN
