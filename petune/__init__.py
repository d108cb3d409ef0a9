"""petune: parameter-efficient tuning of frozen transformers backbones.

    from petune import Tuner

    tuner = Tuner("path/or/hub-name").fit("train.csv")
    tuner.predict(["a great film"])

Names are loaded on first use, so `import petune` costs milliseconds and imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petune.adapted import AdaptedModel as AdaptedModel
    from petune.combining import merge_adapters as merge_adapters
    from petune.combining import negate as negate
    from petune.config import TrainConfig as TrainConfig
    from petune.converting import convert as convert
    from petune.doctor.examining import diagnose as diagnose
    from petune.errors import PetuneError as PetuneError
    from petune.joint import Job as Job
    from petune.joint import fit_many as fit_many
    from petune.methods.adalora import AdaLoRA as AdaLoRA
    from petune.methods.bottleneck import Bottleneck as Bottleneck
    from petune.methods.full import Full as Full
    from petune.methods.head import Head as Head
    from petune.methods.lora import LoRA as LoRA
    from petune.methods.prefix import Prefix as Prefix
    from petune.methods.prompt_tuning import PromptTuning as PromptTuning
    from petune.storage.exporting import export as export
    from petune.storage.store import AdapterStore as AdapterStore
    from petune.tasks.audio_classification import AudioClassification as AudioClassification
    from petune.tasks.causal_lm import CausalLM as CausalLM
    from petune.tasks.ctc import CTC as CTC
    from petune.tasks.dialogue import Dialogue as Dialogue
    from petune.tasks.image_classification import ImageClassification as ImageClassification
    from petune.tasks.instruction import Instruction as Instruction
    from petune.tasks.multiple_choice import MultipleChoice as MultipleChoice
    from petune.tasks.prompt_classification import PromptClassification as PromptClassification
    from petune.tasks.question_answering import QuestionAnswering as QuestionAnswering
    from petune.tasks.relation_extraction import RelationExtraction as RelationExtraction
    from petune.tasks.seq2seq_lm import Seq2SeqLM as Seq2SeqLM
    from petune.tasks.sequence_classification import SequenceClassification as SequenceClassification
    from petune.tasks.similarity import Similarity as Similarity
    from petune.tasks.speech_to_text import SpeechToText as SpeechToText
    from petune.tasks.summarization import Summarization as Summarization
    from petune.tasks.token_classification import TokenClassification as TokenClassification
    from petune.tasks.translation import Translation as Translation
    from petune.tuner import Tuner as Tuner

__version__ = "0.1.0"

_HOMES = {
    "AdaLoRA": "petune.methods.adalora",
    "AdaptedModel": "petune.adapted",
    "AdapterStore": "petune.storage.store",
    "AudioClassification": "petune.tasks.audio_classification",
    "Bottleneck": "petune.methods.bottleneck",
    "CausalLM": "petune.tasks.causal_lm",
    "CTC": "petune.tasks.ctc",
    "Dialogue": "petune.tasks.dialogue",
    "Full": "petune.methods.full",
    "Head": "petune.methods.head",
    "ImageClassification": "petune.tasks.image_classification",
    "Instruction": "petune.tasks.instruction",
    "Job": "petune.joint",
    "LoRA": "petune.methods.lora",
    "MultipleChoice": "petune.tasks.multiple_choice",
    "PetuneError": "petune.errors",
    "Prefix": "petune.methods.prefix",
    "QuestionAnswering": "petune.tasks.question_answering",
    "PromptTuning": "petune.methods.prompt_tuning",
    "PromptClassification": "petune.tasks.prompt_classification",
    "RelationExtraction": "petune.tasks.relation_extraction",
    "Seq2SeqLM": "petune.tasks.seq2seq_lm",
    "SequenceClassification": "petune.tasks.sequence_classification",
    "Similarity": "petune.tasks.similarity",
    "SpeechToText": "petune.tasks.speech_to_text",
    "Summarization": "petune.tasks.summarization",
    "TokenClassification": "petune.tasks.token_classification",
    "TrainConfig": "petune.config",
    "Translation": "petune.tasks.translation",
    "Tuner": "petune.tuner",
    "convert": "petune.converting",
    "diagnose": "petune.doctor.examining",
    "export": "petune.storage.exporting",
    "fit_many": "petune.joint",
    "merge_adapters": "petune.combining",
    "negate": "petune.combining",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'petune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
