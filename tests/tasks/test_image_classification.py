"""Pictures to labels: what a row may hold, what is refused with its row, and adapters that need no arguments."""

from __future__ import annotations

import io
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from petune import AdaptedModel, Job, LoRA, TrainConfig, Tuner, fit_many
from petune.errors import BackboneError, ConfigError, DataError
from petune.tasks.base import Table
from petune.tasks.image_classification import ImageClassification
from tests import tiny
from tests.conformance.subjects import differ
from tests.media import SIDE, image_processor, picture_files, pictures

QUIET = TrainConfig(epochs=2, progress="off", batch_size=8, learning_rate=1e-2)


def tuner(model: Any, **knobs: Any) -> Tuner:
    """A tuner for pictures."""
    return Tuner(model, **{"task": "image-classification", "tokenizer": image_processor(), **knobs})


def encoded(rows: list[dict[str, Any]], task: ImageClassification | None = None) -> Any:
    """Rows as examples, unlabelled."""
    learnt = task or ImageClassification(image="image", label="label", labels=("a", "b"))
    return learnt.encode(Table(rows, ("image",)), image_processor(), longest=512, labelled=False)


def pixels(value: Any) -> np.ndarray:
    """What the backbone sees of one value."""
    return np.asarray(encoded([{"image": value}]).examples[0]["pixel_values"])


# ------------------------------------------------------------------ what a row may hold


def test_every_form_of_a_picture_has_the_same_bits(tmp_path):
    """A path, bytes, a PIL image, arrays of either order and of either type, and what `datasets` keeps."""
    array = pictures(1)[0]["image"]
    image, buffer = Image.fromarray(array), io.BytesIO()
    image.save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    forms = [
        array,
        array.tolist(),
        np.moveaxis(array, -1, 0),
        array / np.float32(255),
        image,
        buffer.getvalue(),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        {"bytes": buffer.getvalue(), "path": None},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ]
    want = image_processor()(images=[image], return_tensors="np")["pixel_values"][0]
    assert want.shape == (3, SIDE, SIDE)
    for form in forms:
        assert np.array_equal(pixels(form), want), type(form)


def test_an_example_takes_a_byte_a_value():
    """Pictures are kept as bytes, a quarter of the numbers that a batch is made of."""
    kept = encoded(pictures(1)).examples[0]["pixel_values"]
    assert kept.nbytes * 4 == np.asarray(kept).nbytes


@pytest.mark.parametrize(
    ("mode", "said"),
    [("L", "grey"), ("1", "grey"), ("RGBA", "white"), ("LA", "white"), ("CMYK", "CMYK"), ("I;16", "16 bits")],
)
def test_other_colours_are_converted_and_told_once(mode, said):
    """Grey, transparent and other pictures become RGB; one sentence says how many."""
    image = Image.new(mode, (20, 20))
    made = encoded([{"image": image}, {"image": image}, {"image": pictures(1)[0]["image"]}])
    assert len(made.notices) == 1
    assert made.notices[0].startswith("the data: 2 of 3 pictures")
    assert said in made.notices[0]


def test_what_is_transparent_is_white():
    """A transparent picture is a white one, whatever colour lies under it."""
    assert np.array_equal(pixels(Image.new("RGBA", (9, 9), (255, 0, 0, 0))), pixels(Image.new("RGB", (9, 9), "white")))


def test_a_picture_is_turned_as_its_camera_says():
    """The orientation of a photograph's EXIF data is applied."""
    image = Image.fromarray(pictures(1)[0]["image"])
    exif, buffer = image.getexif(), io.BytesIO()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(buffer, "PNG", exif=exif)
    assert np.array_equal(pixels(buffer.getvalue()), pixels(image.rotate(-90, expand=True)))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "is missing"),
        ("nowhere.png", "no file 'nowhere.png'"),
        (b"GIF89a but nothing more", "cannot be decoded"),
        (3.5, "holds a float"),
        (np.zeros((7, 7, 7), np.uint8), "is no picture"),
        ([[1, 2], [3]], "is no picture"),
        (np.full((4, 4), 300), "from 300 to 300"),
        (np.full((4, 4), -0.5), "from -0.5 to -0.5"),
        (Image.new("F", (4, 4)), "no known range"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_row(value, said):
    """The first bad row is named, with what it holds and what was expected."""
    with pytest.raises(DataError, match=f"row 1.*{said}"):
        encoded([{"image": pictures(1)[0]["image"]}, {"image": value}])


def test_a_torn_file_is_refused_by_its_path(tmp_path):
    """Half of a PNG file in a class folder is named by its path."""
    folder = picture_files(tmp_path, pictures(8))
    torn = sorted(folder.rglob("*.png"))[3]
    torn.write_bytes(torn.read_bytes()[:200])
    with pytest.raises(DataError, match=f"{torn.name}.*cannot be decoded"):
        tuner(tiny.backbone("vit")).fit(folder, config=QUIET)


# ------------------------------------------------------------------ knobs


def test_the_size_can_be_another():
    """`size` takes the place of the processor's own, also of one that cuts."""
    task = ImageClassification(image="image", label="label", labels=("a", "b"), size=16)
    assert np.asarray(encoded(pictures(1), task).examples[0]["pixel_values"]).shape == (3, 16, 16)


def test_pictures_of_several_sizes_are_refused():
    """A processor that does not resize leaves pictures that cannot meet in a batch."""
    whole = image_processor()
    whole.do_resize = False
    task = ImageClassification(image="image", label="label", labels=("a", "b"))
    table = Table([{"image": np.zeros((8, 8, 3), np.uint8)}, {"image": np.zeros((8, 9, 3), np.uint8)}], ("image",))
    with pytest.raises(ConfigError, match=r"row 1.*9 by 8"):
        task.encode(table, whole, longest=512, labelled=False)


def test_what_has_no_meaning_is_refused():
    """Pictures have no pieces, a label is named once, one class teaches nothing, and nothing is encoded unlearnt."""
    with pytest.raises(ConfigError, match="max_length"):
        ImageClassification(max_length=10)
    with pytest.raises(ConfigError, match="twice"):
        ImageClassification(labels=("a", "a"))
    with pytest.raises(DataError, match="single class"):
        ImageClassification().learn(Table([{"image": 1, "label": "a"}] * 2, ("image", "label")))
    with pytest.raises(ConfigError, match="not learnt"):
        ImageClassification().encode(Table([], ()), image_processor(), longest=512, labelled=False)


def test_a_backbone_without_a_processor_says_so():
    """A folder that holds no image processor is refused before any data is read."""
    with pytest.raises(BackboneError, match="No image processor"):
        Tuner(tiny.backbone("vit"), task="image-classification")


# ------------------------------------------------------------------ whole ways


def test_a_folder_of_classes_is_trained_saved_and_loaded_without_arguments(tmp_path):
    """From class folders to an adapter that knows its backbone, its processor and its labels; paths in, labels out."""
    backbone = tmp_path / "vit"
    tiny.backbone("vit").save_pretrained(backbone)
    image_processor().save_pretrained(backbone)
    photos = picture_files(tmp_path / "photos", pictures(24, classes=3))
    made = Tuner(backbone, task="image-classification").fit(photos, 0.25, TrainConfig(epochs=6, **_rate()))
    assert made.classes_ == ("blue", "green", "red")
    assert made.evaluate(photos)["accuracy"] > 0.9
    assert {"f1_macro", "loss"} <= set(made.evaluate(photos))
    paths = [str(path) for path in sorted(photos.rglob("*.png"))]
    said = made.predict(paths)
    made.save(tmp_path / "adapter")
    loaded = Tuner.load(tmp_path / "adapter", check=True)
    assert loaded.predict(paths) == said
    assert loaded.predict([np.asarray(Image.open(paths[0]))]) == said[:1]
    assert type(loaded.tokenizer) is type(image_processor())


def _rate() -> dict[str, Any]:
    return {"progress": "off", "batch_size": 8, "learning_rate": 1e-2}


def test_a_dataset_with_an_image_column_is_read():
    """`datasets` with Image and ClassLabel features give pictures and names of classes."""
    rows = [{"image": Image.fromarray(row["image"]), "label": row["label"]} for row in pictures(16)]
    data = datasets.Dataset.from_list(rows).class_encode_column("label")
    made = tuner(tiny.backbone("vit")).fit(data, config=QUIET)
    assert made.classes_ == ("green", "red")
    assert made.predict([row["image"] for row in rows]) == made.predict(data)


@pytest.mark.parametrize("family", ["vit", "dinov2", "deit"])
def test_two_adapters_share_a_batch(family, tmp_path):
    """Rows of two adapters with other methods and labels are answered in one call as by each alone."""
    backbone = tiny.backbone(family)
    first = tuner(backbone, method="lora", name="two").fit(pictures(16), config=QUIET)
    second = tuner(backbone, method="prefix", name="three").fit(pictures(18, classes=3), config=QUIET)
    model = AdaptedModel(tiny.backbone(family), tokenizer=image_processor())
    model.add("two", first.save(tmp_path / "two")).add("three", second.save(tmp_path / "three"))
    things = [row["image"] for row in pictures(6, seed=5)]
    names = ["two", "three", "three", "two", "three", "two"]
    alone = {"two": first.predict_proba(things), "three": second.predict_proba(things)}
    mixed = model.predict_proba(things, adapters=names)
    for row, name in enumerate(names):
        assert np.abs(np.asarray(mixed[row]) - alone[name][row]).max() <= 1e-5
    model.use("three")
    assert model.predict(things) == second.predict(things)


def test_adapters_of_other_sizes_are_not_stacked(tmp_path):
    """Rows whose pictures have other sizes run in batches of their own."""
    backbone = tiny.backbone("dinov2")
    made = [
        tuner(backbone, name=str(size), task=ImageClassification(size=size)).fit(pictures(16), config=QUIET)
        for size in (16, 32)
    ]
    model = AdaptedModel(backbone, tokenizer=image_processor())
    for one in made:
        model.add(one.name, one.save(tmp_path / one.name))
    things = [row["image"] for row in pictures(4)]
    names = ["16", "32", "16", "32"]
    want = [made[index % 2].predict(things)[index] for index in range(4)]
    assert model.predict(things, adapters=names) == want


@pytest.mark.parametrize("recipe", ["lora", "adalora"])
def test_a_merged_model_answers_alike(recipe, tmp_path):
    """A merged copy is a plain transformers model with the labels set, whose logits are the adapter's."""
    made = tuner(tiny.backbone("vit"), method=recipe).fit(pictures(16), config=QUIET)
    things = [row["image"] for row in pictures(4, seed=1)]
    merged = made.merged_copy()
    given = image_processor()(images=things, return_tensors="pt")
    with torch.no_grad():
        logits = merged(**given).logits
    assert differ(logits.softmax(-1), torch.from_numpy(made.predict_proba(things))) <= 1e-5
    assert merged.config.id2label == {0: "green", 1: "red"}


def test_a_cached_trunk_changes_no_loss():
    """The states of pictures are kept between epochs, known by their bytes, and the losses are the same."""
    losses = []
    for cached in (True, False):
        config = TrainConfig(epochs=3, cache_trunk=cached, **_rate())
        made = tuner(tiny.backbone("vit"), method=LoRA(rank=4, top=1)).fit(pictures(12), config=config)
        losses.append([row["loss"] for row in made.report.history if "loss" in row])
        assert any("was computed once" in notice for notice in made.report.notices) == cached
    assert np.allclose(*losses, atol=1e-5)


def test_adapters_learn_together_as_alone():
    """Two fits on one backbone, joint, have the losses of each alone."""
    config = TrainConfig(epochs=2, backbone_dropout=False, **_rate())
    alone = [tuner(tiny.backbone("vit"), name=name).fit(pictures(12, seed=seed), config=config)
             for seed, name in enumerate("ab")]  # fmt: skip
    backbone = tiny.backbone("vit")
    jobs = [Job(tuner(backbone, name=name), pictures(12, seed=seed), config=config) for seed, name in enumerate("ab")]
    for one, both in zip(alone, fit_many(jobs), strict=True):
        first, second = ([row["loss"] for row in made.report.history if "loss" in row] for made in (one, both))
        assert np.allclose(first, second, atol=1e-4)


def test_a_run_is_resumed_by_what_its_pictures_hold(tmp_path):
    """A checkpoint knows its rows by their pixels: the same go on, others are refused."""
    config = TrainConfig(epochs=2, output_dir=tmp_path, save_every=1, **_rate())
    whole = tuner(tiny.backbone("vit")).fit(pictures(12), config=config)
    again = tuner(tiny.backbone("vit")).fit(pictures(12), config=config, resume="auto")
    assert again.predict([row["image"] for row in pictures(4)]) == whole.predict([row["image"] for row in pictures(4)])
    with pytest.raises(ValueError, match="another run"):
        tuner(tiny.backbone("vit")).fit(pictures(12, seed=9), config=config, resume="auto")


@pytest.mark.parametrize("family", ["vit", "deit"])
def test_another_size_than_the_positions_are_for_is_refused(family):
    """Before anything is trained, with both sizes; a backbone that stretches its positions takes it."""
    rows = pictures(8)
    task = ImageClassification(size=16)
    tuner = Tuner(tiny.backbone(family), task=task, tokenizer=image_processor())
    with pytest.raises(ConfigError, match="are 16 by 16 pixels, the backbone takes 32 by 32 alone"):
        tuner.fit(rows, config=TrainConfig(epochs=1, progress="off"))
    with pytest.raises(ConfigError, match="16 by 16"):
        tuner.plan(rows)
