"""What the README and the docs say runs: every Python block, every link, every figure.

A page's Python blocks run in order in one namespace, in a folder that holds `path/to/backbone` (a tiny BERT),
`path/to/language-model` (a Llama), `path/to/encoder-decoder` (a T5), `path/to/vision-backbone` (a ViT),
`path/to/speech-backbone` (a wav2vec 2.0), `path/to/whisper`, `train.csv`, `test.csv`, `questions.csv`, `train.conll`,
`photos` and `clips`. A block that begins with `>>>` is a doctest: its output is compared. What cannot run is no
`python` block.
"""

from __future__ import annotations

import csv
import doctest
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import machine, readme
from tests import media
from tests.kinds import speech
from tests.language import language_model
from tests.tiny import backbone, folder, rows, tag_rows, tokenizer

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
LANGUAGES = {"python", "text", "sh", "toml", "yaml"}


def name(page: Path) -> str:
    """The page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, code) of each fenced block."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def prose(page: Path) -> str:
    """The text without its fenced blocks and without what is filled in from results."""
    text = page.read_text(encoding="utf-8")
    for part in readme.PARTS:
        text = re.sub(f"<!-- {part} -->.*?<!-- /{part} -->", "", text, flags=re.DOTALL)
    return FENCE.sub("", text)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name."""
    place = tmp_path_factory.mktemp("workplace")
    (place / "path" / "to").mkdir(parents=True)
    folder("bert", place).rename(place / "path" / "to" / "backbone")
    for family, name in (("llama", "language-model"), ("t5", "encoder-decoder")):
        for part in (language_model(family), tokenizer(family)):
            part.save_pretrained(place / "path" / "to" / name)
    for family, reader, name in (
        ("vit", media.image_processor(), "vision-backbone"),
        ("wav2vec2", media.feature_extractor(), "speech-backbone"),
        ("whisper", speech.reads("whisper"), "whisper"),
    ):
        for part in (backbone(family), reader):
            part.save_pretrained(place / "path" / "to" / name)
    media.picture_files(place / "photos", media.pictures(16))
    media.sound_files(place / "clips", media.sounds(16))
    for file, made in {"train": rows(40), "test": rows(12, seed=1), "questions": rows(24, classes=3)}.items():
        with (place / f"{file}.csv").open("w", newline="") as out:
            writer = csv.DictWriter(out, ["text", "label"])
            writer.writeheader()
            writer.writerows(made)
    sentences = (zip(row["tokens"], row["tags"], strict=True) for row in tag_rows(24))
    (place / "train.conll").write_text("\n\n".join("\n".join(map(" ".join, pairs)) for pairs in sentences) + "\n")
    return place


@pytest.fixture
def namespace(workplace: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[dict]:
    """An importable module's namespace: what a page defines can be pickled, saved and found again."""
    monkeypatch.chdir(workplace)
    module = types.ModuleType(f"page_{abs(hash(request.node.name))}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield vars(module)


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text("utf-8")], ids=name)
def test_the_code_runs(page: Path, namespace: dict, capsys: pytest.CaptureFixture[str]) -> None:
    """Each block runs after those before it; doctest blocks also print what they say."""
    for number, (language, code) in enumerate(blocks(page)):
        if language != "python":
            continue
        if code.startswith(">>>"):
            parsed = doctest.DocTestParser().get_doctest(code, namespace, f"{name(page)}, block {number}", None, 0)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            failed = runner.run(parsed, clear_globs=False).failed
            assert not failed, capsys.readouterr().out
            namespace.update(parsed.globs)
        else:
            exec(compile(code, f"{name(page)}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_say_what_they_are(page: Path) -> None:
    """Each fenced block has a known language, so nothing that looks like code escapes the run."""
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") + text.startswith("```") == 2 * len(blocks(page))
    assert {language for language, _ in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links name files of the repository, and headings that are in them."""
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if heading:
            assert heading in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_every_page_is_reached() -> None:
    """The index links to every page, so that none is forgotten."""
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(prose(index))}
    assert {page for page in PAGES if page.parent != ROOT} - {index} <= linked


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_shows_the_committed_results(page: Path) -> None:
    """Tables and output are those of benchmarks/results; `python -m benchmarks.readme` writes them."""
    text = page.read_text(encoding="utf-8")
    assert readme.filled(text) == text


def test_every_result_is_shown_once() -> None:
    """Each part that is filled in from results stands on one page."""
    everything = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert {part: everything.count(f"<!-- {part} -->") for part in readme.PARTS} == dict.fromkeys(readme.PARTS, 1)


def test_the_readmes_example_is_the_one_that_was_run() -> None:
    """The output beneath the first block was printed by that very block."""
    found = readme.result("quickstart")
    assert found is None or found["code"] == next(code for language, code in blocks(ROOT / "README.md"))


MEASURED = re.compile(r"\d[\d.,]*\s?(?:%|s\b|ms\b|seconds\b|minutes\b|tokens/s|MB\b|GB\b|times (?:faster|slower|as))")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_figure_stands_in_prose(page: Path) -> None:
    """Scores, times, speeds and sizes come from results and stand in the filled parts, nowhere else."""
    allowed = {"3 minutes", "98 %", "3 %"}  # the demo's promised length; the goals of the comparison
    assert not [figure for figure in MEASURED.findall(prose(page)) if figure.strip() not in allowed]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_installs_are_constrained(page: Path) -> None:
    """No page tells a bare editable install: without the constraints it may fetch gigabytes."""
    text = page.read_text(encoding="utf-8")
    installs = [line for line in text.splitlines() if re.search(r"pip install.* -e", line)]
    assert not [line for line in installs if "-c constraints.txt" not in line and "Never" not in line]


def test_results_name_their_machine() -> None:
    """Every committed result says on what machine, with which versions and when it was measured."""
    for path in machine.RESULTS.glob("*.json"):
        found = readme.result(path.stem)
        assert found and {"date", "machine"} <= found.keys(), path
