"""The commands around a fit: figures, plans, comparisons, merged models, other libraries, files to begin with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from petune import Tuner
from petune.cli.recipe import recipe_of
from petune.cli.schema import file_model, json_schema
from petune.cli.sections import SECTIONS
from petune.cli.yaml_file import read
from petune.config import TrainConfig
from petune.lookup import names
from tests.cli.test_door import left


def test_evaluate_tells_the_tuners_figures(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As text and as JSON, further metrics included."""
    assert left("evaluate", "runs/a", "test.csv") == 0
    assert "accuracy" in capsys.readouterr().out
    assert left("evaluate", "runs/a", "test.csv", "--json", "--metrics", "token-accuracy") == 2
    assert left("evaluate", "runs/a", "test.csv", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["figures"] == pytest.approx(dict(Tuner.load("runs/a").evaluate("test.csv"))) and told["rows"] == 10


def test_plan_takes_the_options_of_fit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What would be trained is counted, nothing is written, and without data no steps are told."""
    words = ("plan", "train.csv", "--model", "bert", "--method", "lora", "--method.rank", "2", "--epochs", "4")
    assert left(*words, "--untimed", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["trainable_parameters"] == 1858 and told["epochs"] == 4 and told["seconds"] is None
    assert told["rows"] == 24 and told["steps"] == 8
    assert left("plan", "--model", "bert", "--method", "prefix") == 0
    assert "trainable parameters" in capsys.readouterr().out
    assert left("plan", "train.csv") == 2 and "--model" in capsys.readouterr().err


def test_compare_tells_each_method(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every arm and every seed is fitted in turn; the table has means and spread, the file has every fit."""
    words = (
        "compare",
        "train.csv",
        "--model",
        "bert",
        "--methods",
        "lora,head",
        "--seeds",
        "2",
        "--test-data",
        "test.csv",
    )
    more = ("--epochs", "1", "--progress", "off", "--lora.rank", "1", "--head.learning-rate", "0.05", "--out", "c.json")
    assert left(*words, *more) == 0
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()[1:3]] == ["lora", "head"]
    assert [line for line in told.err.splitlines() if ", seed" in line] == [
        f"{method}, seed {seed}" for method in ("lora", "head") for seed in (0, 1)
    ]
    found = json.loads(Path("c.json").read_text())
    lora, head = found["summary"]
    assert head["learning_rate"] == 0.05 and lora["trainable_parameters"] == 962 > head["trainable_parameters"] == 66
    assert lora["seeds"] == 2 and lora["spread"] is not None and len(found["runs"]) == 4
    figures = [run["figures"]["accuracy"] for run in found["runs"][:2]]
    assert lora["mean"] == pytest.approx(sum(figures) / 2) and 0 < lora["trainable_share"] < 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "lora,prefx"], "'prefix'"),
        (["--methods", ","], "names no method"),
        (["--methods", "lora", "--lora.rnk", "2"], "--lora.rank"),
        (["--methods", "lora", "--lora.rank", "0"], "rank=0"),
        (["--seeds", "0"], "--seeds"),
    ],
)
def test_compare_refuses_before_it_fits(
    place: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong name, knob or number ends it at once, with 2."""
    assert left("compare", "train.csv", "--model", "bert", *words) == 2
    told = capsys.readouterr()
    assert said in told.err and ", seed" not in told.err


def test_merge_writes_a_plain_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """transformers alone loads it, with labels and tokenizer, and it answers as the adapter; it writes over nothing."""
    assert left("merge", "runs/a", "merged") == 0
    assert "largest logit difference" in capsys.readouterr().out
    model = AutoModelForSequenceClassification.from_pretrained("merged").eval()
    texts = ["a lovely film", "a dull story"]
    logits = model(**AutoTokenizer.from_pretrained("merged")(texts, padding=True, return_tensors="pt")).logits
    assert [model.config.id2label[int(i)] for i in logits.argmax(-1)] == Tuner.load("runs/a").predict(texts)
    assert left("merge", "runs/a", "merged") == 2 and "is there already" in capsys.readouterr().err


def test_inspect_tells_facts_knobs_and_sizes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text for people, JSON for programs; what cannot be told from is an error."""
    assert left("inspect", "runs/a") == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("petune adapter", "method: lora", "rank", "accuracy", "run.yaml"))
    assert left("inspect", "runs/a", "--json", "--tensors") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["knobs"]["method"]["knobs"]["rank"] == 2 and found["files"]["adapter_model.safetensors"] > 0
    assert found["tensors"]["encoder.layer.0.attention.self.query.lora_A"] == [2, 32]
    assert left("inspect", "bert") == 0 and "transformers model" in capsys.readouterr().out
    assert left("inspect", "runs") == 0 and "store" in capsys.readouterr().out
    assert left("inspect", "nowhere") == 1 and "There is no folder" in capsys.readouterr().err


def test_export_and_convert_there_and_back(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A peft folder and back, the labels named on the way; a target that cannot be is refused."""
    assert left("export", "runs/a", "by-peft") == 0
    told = capsys.readouterr()
    assert told.out == "Saved by-peft\n" and "no label names" in told.err
    assert left("convert", "by-peft", "runs/back", "--model", "bert", "--labels", "bad,good", "--name", "back") == 0
    texts = ["a lovely film", "a dull story"]
    back, first = Tuner.load("runs/back"), Tuner.load("runs/a")
    assert back.name == "back" and back.predict(texts) == first.predict(texts)
    assert left("export", "runs/a", "other", "--target", "vllm") == 1 and "--drop-head" in capsys.readouterr().err
    assert left("export", "runs/a", "other", "--target", "vlm") == 2 and "'vllm'" in capsys.readouterr().err


@pytest.mark.parametrize("method", names("methods"))
def test_init_writes_what_fit_takes(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file holds every knob with its default and a line that tells of it; it makes the default recipe."""
    path = tmp_path / "run.yaml"
    assert left("init", str(path), "--method", method) == 0
    recipe = recipe_of(path, {}, {})
    assert recipe.config == TrainConfig() and recipe.settings["method"]["name"] == method
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("warmup_ratio:"))
    assert lines[at - 1].startswith("# share of the optimizer steps")
    assert set(read(path)[0]) == set(recipe.settings)
    assert left("init", str(path)) == 2 and "--force" in capsys.readouterr().err
    assert left("init", str(path), "--force") == 0


@pytest.mark.parametrize("task", names("tasks"))
def test_every_tasks_file_makes_its_defaults(task: str, tmp_path: Path) -> None:
    """Whatever tasks there are: the file of init makes the task that no arguments make."""
    assert left("init", str(tmp_path / "run.yaml"), "--task", task) == 0
    recipe = recipe_of(tmp_path / "run.yaml", {}, {})
    assert recipe.task == type(recipe.task)()


def test_the_schema_knows_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    """Every installed method and task is in it, with its knobs; the default file is valid by its model."""
    assert left("init", "--schema") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(json_schema())) and told["additionalProperties"] is False
    for section, room in SECTIONS.items():
        listed = told["properties"][section]["anyOf"][0]
        assert set(listed.get("enum", [listed.get("const")])) == set(names(room))
    assert "rank" in told["$defs"]["method_lora"]["properties"]
    settings = recipe_of(None, {"train": "a.csv"}, {}).settings
    file_model({section: names(room) for section, room in SECTIONS.items()}).model_validate(settings)


def test_the_demo_ends_with_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every method that can act has its line, and a saved adapter answers; the rows are called synthetic."""
    assert left("demo", "--epochs", "1", "--keep", str(tmp_path)) == 0
    told = capsys.readouterr()
    table = [line.split()[0] for line in told.out.splitlines() if "%" in line]
    left_out = [line.split()[0] for line in told.err.splitlines() if "is left out" in line]
    assert sorted(table + left_out) == sorted(names("methods")) and len(table) >= 6
    assert "Synthetic" in told.out and (tmp_path / "adapter" / "petune.json").exists()
