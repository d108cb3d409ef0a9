"""One label per picture."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from petune.errors import ConfigError
from petune.knobs import check, knobs
from petune.tasks._classifying import Classifying
from petune.tasks._columns import Names, cells
from petune.tasks._padding import positions
from petune.tasks._pictures import Pixels, need_pillow, open_picture, resized
from petune.tasks.base import Encoded, Example, Reads, Table

MEGABYTE = 1e6


@knobs
class ImageClassification(Classifying):
    """Pictures to labels, with the image processor that lies beside the backbone.

    Pictures are decoded and resized once, and kept as bytes until a batch is made, so every epoch sees the same bits.
    There is no augmentation: what the processor makes of a picture is what the backbone sees, in training as later.

    Args:
        image: the column of the pictures; None finds it by its name. A cell is a path, the bytes of a file, a PIL
            image, an array, or what `datasets` keeps of one.
        label: the column of the labels; None finds it by its name.
        size: pixels of both sides, for a backbone that takes other sizes than the processor's own (DINOv2).
        labels: see `Task`.

    Examples:
        >>> from petune.tasks.base import Table
        >>> rows = [{"image": "a.png", "label": "cat"}, {"image": "b.png", "label": "dog"}]
        >>> learnt = ImageClassification().learn(Table(rows, ("image", "label")))
        >>> learnt.image, learnt.labels
        ('image', ('cat', 'dog'))
    """

    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    reads: ClassVar[Reads] = "image_processor"
    # The same bits wherever the adapter is used: the other way of resizing, which needs torchvision, gives others.
    tokenizer_kwargs: ClassVar[dict[str, Any]] = {"backend": "pil"}
    thing: ClassVar[str] = "image"
    things: ClassVar[Names] = Names(
        ("image", "images"), ("img", "picture", "photo", "pixels", "path", "file", "file_name")
    )

    image: str | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.size is None or self.size >= 8, "size", self.size, "None or at least 8 pixels")

    def _read(self, table: Table, column: str, reader: Any) -> Encoded:
        need_pillow()
        told: Counter[str] = Counter()
        examples: list[Example] = []
        for place, value in cells(table, column):
            kept = resized(open_picture(value, place, column, told), reader, self.size, place)
            if examples and kept.shape != examples[0]["pixel_values"].shape:
                raise ConfigError(
                    f"{place}: the image processor leaves the picture at {kept.shape[-1]} by {kept.shape[-2]} pixels.",
                    expected="All pictures of a batch are of one size.",
                    fix="Pass ImageClassification(size=224), or an image processor that resizes.",
                )
            examples.append({"pixel_values": Pixels(kept, reader), "_pieces": positions(kept.shape)})
        notices = [f"{table.source}: {count} of {len(table)} pictures {what}." for what, count in told.items()]
        if examples:
            high, wide = examples[0]["pixel_values"].shape[-2:]
            held = sum(example["pixel_values"].nbytes for example in examples) / MEGABYTE
            if held >= 100:
                notices.append(f"{table.source}: {len(table):,} pictures of {wide} by {high} take {held:,.0f} MB.")
        return Encoded(examples, notices)
