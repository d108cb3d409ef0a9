"""Files and objects that must be refused as a whole, or for one line of theirs, before the first optimizer step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.faults.data_kinds import CONLL, CSV, GOOD, JSONL, TSV, Kind, alone, dataset, file, frame
from petune import CausalLM, SequenceClassification, TokenClassification

TAGS = "token-classification"
CLASSES = '{"text": ["a film", "the house"], "label": ["good", "bad"]}\n'


def _kind(name: str, file_name: str, content: str | bytes, where: str, cause: str, task: Any = None) -> Kind:
    return Kind(name, file(file_name, content), where, cause, task or "sequence-classification")


def _parquet(change: Any) -> Any:
    def give(folder: Path) -> Path:
        import pandas

        path = folder / "train.parquet"
        pandas.DataFrame(list(GOOD)).to_parquet(path)
        path.write_bytes(change(path.read_bytes()))
        return path

    return give


def _empty_parquet(folder: Path) -> Path:
    import pandas

    path = folder / "train.parquet"
    pandas.DataFrame(list(GOOD)).head(0).to_parquet(path)
    return path


def _named_twice(made: Any) -> Any:
    made.insert(2, "label", made["label"], allow_duplicates=True)
    return made


def _parts(folder: Path) -> Any:
    import datasets

    return datasets.DatasetDict({"test": datasets.Dataset.from_list(list(map(dict, GOOD)))})


def _present(folder: Path) -> Path:
    file("train.csv", CSV)(folder)
    return folder


def _misspelt(folder: Path) -> Path:
    return _present(folder) / "trian.csv"


DELIMITED: tuple[Kind, ...] = (
    _kind("csv of no bytes", "train.csv", "", "train.csv", "is empty"),
    _kind("csv of blank lines", "train.csv", "\n\r\n \n", "train.csv", "is empty"),
    _kind("csv with a header alone", "train.csv", "text,label\n", "train.csv", "no rows"),
    _kind("csv without a header", "train.csv", CSV.split("\n", 1)[1], r"train.csv, line 1", "header"),
    _kind("csv with its header again", "train.csv", CSV + CSV, r"train.csv, line 8", "header"),
    _kind("quote never closed", "train.csv", CSV + '"a film,bad\nthe house,bad\n', "lines 8 to 9", "never closed"),
    _kind("text after a closing quote", "train.csv", CSV + '"a film" old,bad\n', "line 8", "quote"),
    _kind("quote inside a quoted field", "train.csv", CSV + '"a "big" film",bad\n', "line 8", "quote"),
    _kind("too many fields", "train.csv", CSV + "a film, a house,bad\n", "line 8", r"more fields \(3\)"),
    _kind("too few fields", "train.csv", CSV + "a film\n", "line 8", r"fewer fields \(1\)"),
    _kind("column name twice", "train.csv", "text,text,label\na,b,c\n", "train.csv", "more than one column.*'text'"),
    _kind("separated by semicolons", "train.csv", CSV.replace(",", ";"), "train.csv", "semicolons"),
    _kind("separated by tabs", "train.csv", TSV, "train.csv", "tabs"),
    _kind("tsv separated by commas", "train.tsv", CSV, "train.tsv", "commas"),
    _kind("tsv with a stray tab", "train.tsv", TSV + "a\tfilm\tbad\n", "train.tsv, line 8", "more fields"),
    _kind("Latin-1", "train.csv", CSV.encode() + b"caf\xe9,bad\n", "line 8", "0xe9"),
    _kind("UTF-16", "train.csv", CSV.encode("utf-16"), "train.csv", "UTF-16"),
    _kind("NUL byte", "train.csv", CSV + "a\0film,bad\n", "line 8", "NUL"),
    _kind("list written as text", "train.csv", CSV + "a film,\"['bad', 'good']\"\n", "line 8.*'label'", "list"),
    _kind("label cell is blank", "train.csv", CSV + "a film, \n", "line 8.*'label'", "missing"),
    _kind("every text is blank", "train.csv", "text,label\n,good\n ,bad\n", "train.csv.*'text'", "empty"),
    _kind("no label column", "train.csv", "text,id,place\na film,1,x\n", "train.csv", "no column.*label"),
    _kind("no text column", "train.csv", "id,place,label\n1,x,good\n", "train.csv", "no column.*text"),
    _kind("two texts", "train.csv", "text,hypothesis,label\na,b,c\n", "train.csv", "2 columns.*'hypothesis'"),
    _kind("column misspelt", "train.csv", CSV, "train.csv", "no column 'txet'", SequenceClassification(text="txet")),
    _kind(
        "tags in a csv, one short", "train.csv", "tokens,tags\na film,O\n", "line 2.*'tags'", "2 words and 1 tags", TAGS
    ),
)
OTHERS: tuple[Kind, ...] = (
    _kind("jsonl of no bytes", "train.jsonl", "", "train.jsonl", "is empty"),
    _kind(
        "broken json line",
        "train.jsonl",
        JSONL + '{"text": "a film" "label": 1}\n',
        "line 7, column|line 7.*column",
        "JSON",
    ),
    _kind("json cut in its last line", "train.jsonl", JSONL + '{"text": "a fi', "line 7", "JSON"),
    _kind("json line that is no object", "train.jsonl", JSONL + '["a film", "bad"]\n', "line 7", "is a list"),
    _kind("json key twice", "train.jsonl", JSONL + '{"text": "a", "text": "b", "label": "bad"}\n', "line 7", "twice"),
    _kind("json of columns", "train.json", CLASSES, "train.json, line 1.*'text'", "a list"),
    _kind("json list with a last comma", "train.json", "[" + ",".join(JSONL.splitlines()) + ",]", "line 1", "JSON"),
    _kind("json list that never ends", "train.json", "[\n" + ",\n".join(JSONL.splitlines()), "line 7", "JSON"),
    _kind(
        "json with a NaN label", "train.jsonl", JSONL + '{"text": "a", "label": NaN}\n', "line 7.*'label'", "missing"
    ),
    _kind("json row without a label", "train.jsonl", JSONL + '{"text": "a"}\n', "line 7.*'label'", "missing"),
    _kind(
        "json row with a misspelt key",
        "train.jsonl",
        JSONL + '{"txt": "a", "label": "bad"}\n',
        "line 7.*'text'",
        "missing",
    ),
    Kind("parquet that is a csv", file("train.parquet", CSV), "train.parquet", "cannot be read as parquet"),
    Kind("parquet cut in half", _parquet(lambda data: data[: len(data) // 2]), "train.parquet", "parquet"),
    Kind("parquet of no rows", _empty_parquet, "train.parquet", "no rows"),
    _kind("CoNLL line without a tag", "train.conll", CONLL + "\nanna B-PER\nsaw\n", "line 18", "tag", TAGS),
    _kind("CoNLL line of other columns", "train.conll", CONLL + "\nanna NNP B-PER\n", "line 17", "3 columns", TAGS),
    _kind("CoNLL of markers alone", "train.conll", "-DOCSTART- -X- O\n\n", "train.conll", "no sentence", TAGS),
    _kind("CoNLL for texts", "train.conll", CONLL, "train.conll", "no column.*text"),
    _kind(
        "prose in a txt file",
        "train.txt",
        "a great film\nit was awful and dull\n",
        "train.txt, line 2",
        "plain texts",
    ),
    _kind("one word a line in a txt file", "train.txt", "film\nhouse\n", "train.txt, line 1", "tag", TAGS),
    _kind("unknown ending", "train.xlsx", "x", "train.xlsx", "'.xlsx'"),
    _kind("compressed file", "train.csv.gz", b"\x1f\x8b\x08", "train.csv.gz", "'.gz'"),
    Kind("path misspelt", _misspelt, "trian.csv", "no file.*train.csv"),
    Kind("a folder", _present, "a folder", "train.csv"),
)
OBJECTS: tuple[Kind, ...] = (
    Kind("nothing", lambda folder: None, "The data", "None"),
    Kind("no rows", alone(), "the data", "no rows"),
    Kind("a text in place of data", lambda folder: "a great film", "'a great film'", "no file"),
    Kind("a number in place of data", lambda folder: 3, "int", "cannot be read"),
    Kind("a generator", lambda folder: (row for row in GOOD), "generator", "cannot be read"),
    Kind("a dict of columns", lambda folder: {"text": ["a"], "label": ["b"]}, "dict", "cannot be read"),
    Kind("rows that are texts", alone("a film", "the house"), "row 0", "is a str"),
    Kind("a row that is None", alone(*GOOD, None), "row 6", "NoneType"),
    Kind("a key that is a number", alone(*GOOD, {1: "a", "label": "bad"}), "row 6", "key 1"),
    Kind("more texts than labels", lambda folder: (["a", "b", "c"], ["x", "y"]), "3 texts", "2 labels"),
    Kind("frame of no rows", frame(lambda made: made.head(0)), "DataFrame", "no rows"),
    Kind("frame with a column twice", frame(_named_twice), "DataFrame", "more than one column.*'label'"),
    Kind("frame of texts alone", frame(lambda made: made[["text"]]), "DataFrame", "no column.*label"),
    Kind("streamed dataset", dataset(lambda made: made.to_iterable_dataset()), "Dataset", "streamed"),
    Kind("dataset of no rows", dataset(lambda made: made.select([])), "Dataset", "no rows"),
    Kind("parts without 'train'", _parts, "'train'", "no part"),
    Kind(
        "prompts without completions", alone({"prompt": "a film"}), "the data", "no column", CausalLM(), backbone="gpt2"
    ),
    Kind(
        "sources without targets",
        alone({"source": "a film"}),
        "the data",
        "no column.*target",
        "seq2seq-lm",
        backbone="t5",
    ),
    Kind("tokens without tags", alone({"tokens": ["a"]}), "the data", "no column.*tags", TokenClassification()),
)
REFUSED_FILES: tuple[Kind, ...] = (*DELIMITED, *OTHERS, *OBJECTS)
