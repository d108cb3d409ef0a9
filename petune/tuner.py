"""`Tuner`: fine-tunes a frozen backbone. It wires the rooms together and computes nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from petune.config import TrainConfig, as_config, near_keywords
from petune.data.preparing import tell
from petune.data.tokenizers import open_tokenizer
from petune.methods.base import Method, as_method
from petune.model.adapter import Adapter
from petune.model.backbone import Backbone
from petune.model.bank import Bank
from petune.model.merging import MergeReceipt, merge, merged_copy, unmerge
from petune.model.probe import replay
from petune.report import notebook, page
from petune.storage import shelf
from petune.storage.names import check_name
from petune.storage.packing import check_probe
from petune.tasks.base import Task, as_task
from petune.training.fitting import Fitted, fit, plan, reside
from petune.training.plan import Plan
from petune.training.report import EvalReport, TrainReport
from petune.training.starting import start_from
from petune.training.untrained import untrained, ways
from petune.training.using import Work, made

BATCH = 32
"""Rows per forward where nothing is learnt."""


@near_keywords
class Tuner:
    """Fine-tunes a frozen backbone with a small adapter, and keeps what it learnt.

    Args:
        backbone: a folder, a hub id, or a transformers model that is loaded already.
        task: a name or an instance with its knobs, such as `SequenceClassification(text="review", label="stars")`.
        method: a name, an instance such as `LoRA(rank=16, top=4)`, or any `peft.PeftConfig`.
        name: of the adapter.
        tokenizer: in place of the one that lies beside the backbone.
        quantize: `"4bit"` or `"8bit"`: the frozen weights are packed by bitsandbytes (the extra `quant`).

    Raises:
        BackboneError: no such model, or one on which the method cannot act.
        UnknownNameError: no such task or method.

    Examples:
        >>> tuner = Tuner(backbone, method="lora")  # a folder or a hub id
        >>> tuner = tuner.fit(rows, config=TrainConfig(epochs=1, progress="off"))  # or "train.csv"
        >>> tuner.classes_, len(tuner.predict(["a fine film", "a dull one"]))
        (('bad', 'good'), 2)
    """

    def __init__(
        self, backbone: str | Path | PreTrainedModel, *, task: str | Task = "sequence-classification",
        method: str | Method | Any = "lora", name: str = "default", tokenizer: Any = None, quantize: str | None = None,
    ) -> None:  # fmt: skip
        self.task, self.method, self.name = as_task(task), as_method(method), check_name(name)
        self._settle_on(Backbone.open(backbone, quantize))
        self.tokenizer = open_tokenizer(tokenizer, self.backbone, self.task)
        self.backbone.check(self.method)

    def _settle_on(self, backbone: Backbone) -> None:
        self.backbone, self._bank = backbone, Bank(backbone)
        self._keep(None)
        self._receipt: MergeReceipt | None = None
        self._said: set[str] = set()

    def fit(
        self, train: Any, eval_data: Any = None, config: TrainConfig | None = None, *, resume: str | Path | None = None,
        continue_from: str | Path | Tuner | None = None, callbacks: Sequence[Any] = (), processes: int | None = None,
    ) -> Tuner:  # fmt: skip
        """Trains a fresh adapter and keeps it; calls chain.

        Args:
            train: a path (csv, tsv, jsonl, parquet, CoNLL), Dataset, DataFrame, list of dicts, or (texts, labels).
            eval_data: the same, or a fraction of the training rows to hold out (stratified, seeded).
            config: how to fit.
            resume: `"auto"` or a checkpoint folder: go on where a run stopped.
            continue_from: a saved adapter, or a Tuner, whose weights the new adapter starts from.
            callbacks: `petune.training.callbacks.Callback` objects that watch the run.
            processes: to launch here, one per GPU if there are any; None: this one, or all of the launch it is in.

        Raises:
            DataError: rows that cannot be used, with the place of the first one.
            TrainingError: the loss became NaN or infinite; the last good adapter is kept.
            CheckpointError, MergeError: `resume` means no checkpoint of this run; while merged.
            ProcessError: one of several processes was lost, or they do not train the same adapter.
        """
        self._bank.refuse_while_merged("fit")
        fit(
            self._bank, self.name, self.task, self.method, self.tokenizer, train, eval_data, as_config(config),
            start=start_from(continue_from, self.backbone), resume=resume, callbacks=list(callbacks), keep=self._keep,
            processes=processes,
        )  # fmt: skip
        return self

    def zero_shot(self, data: Any = None) -> Tuner:
        """Keeps a fresh adapter where the backbone itself answers (else: ConfigError); rows may tell its columns."""
        self._keep(untrained(self._bank, self.name, self.task, self.method, data))
        return self

    def _keep(self, fitted: Fitted | None) -> None:
        self._adapter: Adapter | None = fitted.adapter if fitted else None
        self._report: TrainReport | None = fitted.report if fitted else None
        self._given = fitted.given if fitted else None
        self._history: list[dict[str, Any]] = list(self._report.history) if self._report else []

    @property
    def adapter(self) -> Adapter:
        """What was learnt or loaded.

        Raises:
            AdapterError: nothing was fitted yet.
        """
        return made(self._adapter, "adapter", ways(self.task, self.method))

    @property
    def report(self) -> TrainReport:
        """What happened in the last fit.

        Raises:
            AdapterError: nothing was fitted yet.
        """
        return made(self._report, "report", "fit(train)")

    @property
    def classes_(self) -> tuple[str, ...]:
        """The labels in class order; empty for regression."""
        return self.adapter.task.labels

    def evaluate(
        self, data: Any, metrics: Sequence[Any] = (), batch_size: int = BATCH, *, generate: bool = True
    ) -> EvalReport:
        """The figures of labelled rows: a mapping of floats that prints the per-class table.

        Args:
            data: as for `fit`.
            metrics: further metrics: names, `evaluate` objects or functions `(y_true, y_pred)`.
            generate: whether a language model also writes, a forward for each piece, for its figures of written texts.

        Raises:
            DataError: rows that cannot be used, or a label that training never saw, with its place.
        """
        return self._work.evaluate(data, metrics, batch_size, generate)

    def predict(self, texts: Sequence[Any], batch_size: int = BATCH) -> list[Any]:
        """One answer per row: str, list[str] (multi-label, tags), or float (regression); a language model's is written.

        Raises:
            DataError: items that are no text, with their row.
        """
        return self._work.predict(texts, batch_size)

    def predict_proba(self, texts: Sequence[Any], batch_size: int = BATCH) -> Any:
        """(rows, C) probabilities in the order of `classes_`; for tags a list of (words, C). Raises as `predict`."""
        return self._work.predict_proba(texts, batch_size)

    def generate(self, texts: Sequence[Any], batch_size: int = BATCH, **options: Any) -> list[Any]:
        """What the language model writes for each text; a list each for `num_return_sequences` above 1.

        Args:
            options: of transformers' `generate`, on top of the task's knobs; `seed`: a number, or one for each text.

        Raises:
            AdapterError: the task is no language model's.
            ConfigError: an unknown option, or options that contradict each other.
        """
        return self._work.generate(texts, batch_size, options)

    def chat(self, messages: Any, **options: Any) -> str:
        """The reply to a list of messages, or to one question, of a `dialogue` or `instruction`; see `generate`."""
        return self._work.chat(messages, options)

    @property
    def _work(self) -> Work:
        return Work(self._bank, self.adapter, self.tokenizer, self._said)

    def save(self, folder: str | Path) -> Path:
        """Writes the adapter folder (for `full`: a plain transformers folder) and returns its path.

        Raises:
            MergeError: while merged.
        """
        adapter = self.adapter
        self._bank.refuse_while_merged("save the adapter")
        return shelf.put(folder, adapter, self._probe(adapter), self.tokenizer, self._history)

    def _probe(self, adapter: Adapter) -> Any:
        return replay(adapter, self._bank.frame(adapter.name) if adapter.name in self._bank.residents else None)

    @classmethod
    def load(
        cls, folder: str | Path, backbone: str | Path | PreTrainedModel | None = None, check: bool = False
    ) -> Tuner:
        """A tuner with a saved adapter: petune's folder, or one written by peft.

        Args:
            folder: what `save` wrote.
            backbone: None uses the recorded id or path.
            check: also replay the stored probe and refuse an adapter that answers otherwise.

        Raises:
            AdapterFileError: a torn or wrong file, another backbone, tensors that do not fit.
            BackboneError: the recorded backbone is not to be found; pass it.
        """
        found = shelf.take(folder, backbone)
        tuner = cls.__new__(cls)
        tuner._settle_on(found.backbone)
        tuner.task, tuner.method, tuner.name = found.adapter.task, found.adapter.method, found.adapter.name
        tuner.tokenizer = found.tokenizer or open_tokenizer(None, found.backbone, tuner.task)
        reside(tuner._bank, found.adapter)
        tuner._adapter, tuner._history = found.adapter, found.history
        tell(tuner.notices, tuner._said)
        if check:
            check_probe(found.adapter.facts.get("probe"), tuner._probe(found.adapter), found.backbone.dtype)
        return tuner

    @property
    def notices(self) -> list[str]:
        """What loading had to say: an untrained adapter, a backbone in another precision, stale exports."""
        return list(self.adapter.facts.get("notices", []))

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, dry_run: bool = False, token: str | None = None
    ) -> Any:
        """Uploads the adapter folder; a dry run returns the files and the card, without a network.

        Raises:
            ConfigError: a repository id that is none.
        """
        return shelf.push(self.save, repo_id, private=private, dry_run=dry_run, token=token)

    def plan(self, data: Any = None, config: TrainConfig | None = None, *, timed: bool = True) -> Plan:
        """What a fit would do: sites, trainable share, memory; with rows, if `timed`: seconds, by three real steps."""
        return plan(self._bank, self.task, self.method, self.tokenizer, data, as_config(config), timed=timed)

    def describe(self) -> str:
        """A few lines: backbone, method, task, and what was learnt."""
        return shelf.describe(self.backbone, self.method, self.task, self._adapter)

    def write_report(self, path: str | Path, data: Any = None) -> Path:
        """Writes the run as one HTML file: data, curves, classes, the hardest rows, cost; needs the extra `report`.

        Args:
            data: labelled rows to look at; None: the evaluation rows of the last fit, or else its training rows.

        Raises:
            ConfigError, DataError: without the extra, or for rows that cannot be read (any more).
        """
        return page.write_report(path, page.Told(self._work, self._report, self._history, self._given), data)

    def plot(self) -> Any:
        """The curves of the run, losses, figure and learning rate, as a matplotlib figure (the extra `report`)."""
        return notebook.plot(self._history, self._report, self.adapter.task.headline())

    def merge(self) -> PreTrainedModel:
        """Writes the adapter into the backbone, in place, and returns the task's model: labels set, saveable.

        Raises:
            MergeError: the method has no weight change, or the logits on the probe would differ too much.
        """
        self._receipt = merge(self._bank, self.adapter)
        return self.adapter.shell.model

    def unmerge(self) -> Tuner:
        """Puts the backbone's original bits back.

        Raises:
            MergeError: nothing is merged.
        """
        unmerge(self._bank)
        return self

    def merged_copy(self) -> PreTrainedModel:
        """An independent merged model; this backbone stays as it is. Raises as `merge`."""
        model, self._receipt = merged_copy(self._bank, self.adapter)
        return model

    @property
    def merge_receipt(self) -> MergeReceipt:
        """What the last merge did; it holds the largest logit difference on the probe.

        Raises:
            AdapterError: nothing was merged yet.
        """
        return made(self._receipt, "merge receipt", "merge()")

    def __repr__(self) -> str:
        return f"<Tuner {self.describe()}>"

    def _repr_html_(self) -> str:
        return notebook.tuner_html(self.backbone, self.method, self.task, self._adapter, self._report)
