"""Long texts to short ones (summaries, headlines), for an encoder-decoder such as T5, BART or Pegasus."""

from __future__ import annotations

from petune.knobs import knobs
from petune.tasks.seq2seq_lm import Seq2SeqLM


@knobs
class Summarization(Seq2SeqLM):
    """Texts to their summaries; what is written is scored by ROUGE, chrF and BLEU.

    The columns are found by their usual names, such as `document` or `article`, and `summary`, `highlights` or
    `headline`; `prefix="summarize: "` is what T5's checkpoints want. See `Seq2SeqLM` for all knobs.

    Examples:
        >>> from petune.tasks.base import Table
        >>> table = Table([{"article": "It rained all day.", "headline": "Rain"}], ("article", "headline"))
        >>> learnt = Summarization(prefix="summarize: ").learn(table)
        >>> learnt.source, learnt.target
        ('article', 'headline')
    """

    def text_metrics(self) -> tuple[str, ...]:
        """ROUGE, as papers on summaries quote it; chrF and BLEU besides."""
        return ("rouge", "chrf", "bleu")
