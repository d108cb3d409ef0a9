"""A fitted adapter at work: rows in; figures, answers, probabilities or texts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from petune.data.preparing import prepare, tell
from petune.errors import AdapterError, ConfigError
from petune.lookup import name_of
from petune.model.adapter import Adapter
from petune.model.bank import Bank
from petune.model.generating import refuse_unless_writing
from petune.model.learner import Learner
from petune.model.modes import evaluating
from petune.tasks._writing import WritingTask
from petune.tasks.base import Example
from petune.training.evaluation import evaluate, logits_of
from petune.training.report import EvalReport
from petune.training.writing import Prompt, write_texts


class Work(NamedTuple):
    """What is needed to put an adapter to work.

    Args:
        bank: where it is resident, if its method can be.
        said: notices that were told already.
    """

    bank: Bank
    adapter: Adapter
    tokenizer: Any
    said: set[str]

    def evaluate(self, data: Any, metrics: Sequence[Any], batch_size: int, generate: bool = True) -> EvalReport:
        """The figures of labelled rows; see `Tuner.evaluate`."""
        task, examples = self.adapter.task, self._examples(data, {}, learn=False)
        texts = task.text_metrics() if isinstance(task, WritingTask) and generate else ()
        wanted = (*task.default_metrics(), *texts, *metrics)
        with evaluating(*self.adapter.modules()):
            return evaluate(Learner(self.bank, self.adapter), task, self.tokenizer, examples, wanted, batch_size)

    def predict(self, texts: Sequence[Any], batch_size: int) -> list[Any]:
        """One answer per row; see `Tuner.predict`."""
        if self.adapter.task.generates:
            return self.generate(texts, batch_size, {})
        return self.adapter.task.answers(*self._logits(texts, batch_size))

    def predict_proba(self, texts: Sequence[Any], batch_size: int) -> Any:
        """Probabilities of the classes; see `Tuner.predict_proba`."""
        return self.adapter.task.probabilities(*self._logits(texts, batch_size))

    def judge(self, texts: Sequence[Any], batch_size: int) -> tuple[list[Any], Any]:
        """Answers, and the probabilities of the same forwards: None where the task has none."""
        if self.adapter.task.generates:
            return self.generate(texts, batch_size, {}), None
        task, found = self.adapter.task, self._logits(texts, batch_size)
        try:
            return task.answers(*found), task.probabilities(*found)
        except ConfigError:  # numbers have no probabilities
            return task.answers(*found), None

    def generate(self, texts: Sequence[Any], batch_size: int, options: dict[str, Any]) -> list[Any]:
        """What the language model writes; see `Tuner.generate`."""
        refuse_unless_writing(self.adapter)
        examples = self._examples(texts, options, labelled=False)
        prompts = [Prompt(self.adapter, self.tokenizer, example) for example in examples]
        return write_texts(self.bank.frame, prompts, batch_size=batch_size, **options)

    def chat(self, messages: Any, options: dict[str, Any]) -> str:
        """The reply to one conversation; see `Tuner.chat`."""
        adapter = self.adapter
        if not getattr(adapter.task, "converses", False):
            raise AdapterError(
                f"The adapter {adapter.name!r} was trained for {name_of('tasks', adapter.task)}: it holds no dialogue.",
                expected="Adapters of the tasks dialogue and instruction do.",
                fix="Use predict or generate.",
            )
        (reply,) = self.generate([messages], 1, {**options, "num_return_sequences": 1})
        return str(reply)

    def _examples(self, data: Any, options: Mapping[str, Any], **how: bool) -> list[Example]:
        """Encoded rows; prompts leave the room that the options of `generate` ask for."""
        backbone, task = self.adapter.shell.backbone, self.adapter.task
        made = prepare(
            task.leaving_room(options) if isinstance(task, WritingTask) else task,
            data, None, self.tokenizer, backbone.positions_for(self.adapter.method), 0,
            vocabulary=backbone.vocabulary, **how,
        )  # fmt: skip
        tell(made.warnings, self.said)
        return made.train

    def _logits(self, texts: Sequence[Any], batch_size: int) -> tuple[list[Any], list[Example]]:
        examples = self._examples(texts, {}, labelled=False)
        with evaluating(*self.adapter.modules()):
            learner = Learner(self.bank, self.adapter)
            return logits_of(learner, self.adapter.task, self.tokenizer, examples, batch_size), examples


def made(thing: Any, noun: str, by: str) -> Any:
    """What a call has made.

    Raises:
        AdapterError: it was not called yet; the error names the call.
    """
    if thing is None:
        raise AdapterError(f"This tuner has no {noun} yet.", expected=f"{by} makes one.")
    return thing
