"""`make look`: reports as people see them, in a headless Chromium, narrow and wide, light and dark.

    python -m benchmarks.look [--out runs/look]

Tiny backbones with random weights are fitted to synthetic rows, one for each kind of report. Each page must show
something, fit its window, run no script into an error and ask no network for anything. The pictures are for people.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path
from typing import Any

WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")
LARGEST = 500_000
"""Bytes of a report."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 30_000
"""Milliseconds for any one thing that the browser is asked to do."""


def reports(folder: Path) -> list[Path]:
    """A report of each kind: single labels by AdaLoRA, numbers, tags, and a language model."""
    from petune import AdaLoRA, CausalLM, SequenceClassification, TrainConfig, Tuner
    from tests import tiny
    from tests.language import language_model

    def config(epochs: int) -> TrainConfig:
        return TrainConfig(epochs=epochs, learning_rate=1e-2, batch_size=8, progress="off")

    def tuner(name: str, **knobs: Any) -> Tuner:
        return Tuner(tiny.backbone("bert"), tokenizer=tiny.tokenizer("bert"), name=name, **knobs)

    labelled = tiny.rows(160, classes=6)
    for row in labelled[::23]:  # wrong on purpose, so that the report has something to find
        row["label"] = "good" if row["label"] != "good" else "bad"
    prompts = [{"prompt": row["text"], "completion": row["label"]} for row in tiny.rows(40)]
    writer = Tuner(
        language_model("llama"), tokenizer=tiny.tokenizer("llama"), task=CausalLM(max_new_tokens=4), name="writer"
    )
    made = {
        "labels": tuner("topics <of> texts", method=AdaLoRA(rank=2, init_rank=4)).fit(labelled, 0.25, config(10)),
        "numbers": tuner("scores", task=SequenceClassification(problem_type="regression")).fit(
            tiny.score_rows(80), tiny.score_rows(40, seed=2), config(6)
        ),
        "tags": tuner("tags", task="token-classification").fit(tiny.tag_rows(60), 0.2, config(2)),
        "writing": writer.fit(prompts, 0.2, config(2)),
    }
    return [one.write_report(folder / f"{name}.html") for name, one in made.items()]


def look_at(page_file: Path, folder: Path) -> list[str]:
    """What is wrong with a page, in words; its pictures go into the folder."""
    from playwright.sync_api import sync_playwright

    wrong = [f"{page_file.name} has {page_file.stat().st_size:,} bytes"] * (page_file.stat().st_size > LARGEST)
    executable = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=executable, args=["--no-sandbox"], timeout=PATIENCE)
        try:
            for width in WIDTHS:
                for scheme in SCHEMES:
                    wrong += _visit(browser, page_file, folder, width, scheme)
        finally:
            browser.close()
    return wrong


def _visit(browser: Any, page_file: Path, folder: Path, width: int, scheme: str) -> list[str]:
    """One window of one width."""
    where, wrong = f"{page_file.name} at {width} px, {scheme}", []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(page_file.resolve().as_uri(), wait_until="load")
    wide = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    if wide[0] > wide[1]:
        wrong.append(f"{where}: the content is {wide[0]} px wide")
    beyond = [url for url in asked if not url.startswith(("file://", "data:"))]
    wrong += [f"{where}: asks for {url}" for url in beyond] + [f"{where}: {words}" for words in said]
    picture = page.screenshot(full_page=True, path=folder / f"{page_file.stem}-{width}-{scheme}.png")
    if is_blank(picture):
        wrong.append(f"{where}: the page is blank")
    page.close()
    return wrong


def is_blank(picture: bytes) -> bool:
    """Whether hardly anything is drawn: fewer than 16 colours, or one of them nearly everywhere."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        small = opened.convert("RGB").resize((200, 400), Image.Resampling.NEAREST)
        counts = sorted(count for count, _ in small.getcolors(200 * 400))
    return len(counts) < 16 or counts[-1] > 0.995 * 200 * 400


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: nothing is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("runs/look"), help="where reports and pictures go")
    folder = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    pages = reports(folder)
    wrong = [words for page_file in pages for words in look_at(page_file, folder)]
    print(*wrong, sep="\n" if wrong else "")
    print(f"{len(pages)} reports, {len(pages) * len(WIDTHS) * len(SCHEMES)} windows, {len(wrong)} faults: {folder}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
