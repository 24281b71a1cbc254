"""Fixtures: small real-format data made here, tiny models, and the shared data where it is present."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, on models that one core trains

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_pgg import add_provenance
from hf_pgg.data.boxes import mask_to_box
from hf_pgg.data.images import encode_mask, encode_png
from hf_pgg.reports.record import environment
from tests.hub.server import Hub

SIZE = 32
FAMILIES = ("vit", "convnext", "timm")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    path = Path(os.environ.get("HF_PGG_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not path.exists():
        pytest.skip("the shared photographs are not here")
    return path


@pytest.fixture(scope="session")
def annotated_folder(photos: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos in folders `train` and `test`, and their boxes beside them as COCO and YOLO files."""
    root = tmp_path_factory.mktemp("annotated")
    for start, split in ((0, "train"), (8, "test")):
        (root / split).mkdir()
        (root / f"labels_{split}").mkdir()
        coco: dict[str, list] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": "abc"[i]} for i in range(3)],
        }
        for i in range(start, start + 8):
            image, (x, y, w, h) = photos[i]["image"], mask_to_box(np.asarray(photos[i]["mask"]) > 127)
            image.save(root / split / f"{i}.png")
            size = {"width": image.width, "height": image.height}
            coco["images"].append({"id": i, "file_name": f"{i}.png", **size})
            label = photos[i]["label"]
            coco["annotations"].append({"id": i, "image_id": i, "category_id": label, "bbox": [x, y, w, h]})
            shares = [(x + w / 2) / image.width, (y + h / 2) / image.height, w / image.width, h / image.height]
            line = f"{label} {' '.join(f'{share:.6f}' for share in shares)}"
            (root / f"labels_{split}" / f"{i}.txt").write_text(line)
        (root / f"instances_{split}.json").write_text(json.dumps(coco))
    return root


@pytest.fixture(scope="session")
def photos() -> Dataset:
    """24 noisy images of two sizes and three classes, each with the mask of a rectangle that is its object."""
    rng = np.random.default_rng(0)
    rows = {"image": [], "mask": [], "label": [], "name": [], "scene": []}
    for i in range(24):
        height, width = (SIZE, SIZE) if i % 2 else (SIZE + 8, SIZE)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), bool)
        top, left = rng.integers(0, 12, 2)
        mask[top : top + 14, left : left + 10] = True
        image[mask] = (40 * (i % 3) + 60, 200, 90)
        rows["image"].append(encode_png(image))
        rows["mask"].append(encode_mask(mask))
        rows["label"].append(i % 3)
        rows["name"].append(f"photo-{i}")
        rows["scene"].append(i % 2)
    return Dataset.from_dict(
        rows,
        features=Features(
            {
                "image": Image(),
                "mask": Image(),
                "label": ClassLabel(names=["a", "b", "c"]),
                "name": Value("string"),
                "scene": ClassLabel(names=["x", "y"]),
            }
        ),
    )


@pytest.fixture(scope="session")
def guided_photos(photos: Dataset) -> Dataset:
    """The photos with provenance."""
    return add_provenance(photos, mask_column="mask").remove_columns(["mask"])


@pytest.fixture(scope="session")
def processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": SIZE, "width": SIZE})


def tiny_model(family: str, num_labels: int = 3, seed: int = 0, activation: str = "gelu") -> torch.nn.Module:
    """A classifier of each family that two cores train in milliseconds. ViT has dropout, timm's ResNet batch norm."""
    torch.manual_seed(seed)
    if family == "vit":
        return ViTForImageClassification(
            ViTConfig(
                image_size=SIZE,
                patch_size=8,
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=48,
                hidden_dropout_prob=0.1,
                num_labels=num_labels,
            )
        )
    if family == "convnext":
        return ConvNextForImageClassification(
            ConvNextConfig(
                depths=[1, 1, 1, 1],
                hidden_sizes=[8, 16, 16, 24],
                image_size=SIZE,
                layer_scale_init_value=1.0,
                num_labels=num_labels,
            )
        )
    model = TimmWrapperForImageClassification(
        TimmWrapperConfig(
            architecture="resnet10t",
            num_labels=num_labels,
            model_args={"channels": [8, 16, 16, 24], "stem_width": 8, "zero_init_last": False, "act_layer": activation},
        )
    )
    with torch.no_grad():  # running statistics of real passes: at initialisation they describe no data
        for _ in range(80):
            model.train()(pixel_values=torch.randn(16, 3, SIZE, SIZE))
    return model


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub on the loopback interface, empty at the start of each test file."""
    with Hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def alice(hub: Hub) -> str:
    """The token of a user who may write."""
    return hub.token("alice")


@pytest.fixture
def record() -> dict[str, Any]:
    """The record of a guided run of images, with all its parts but `localization`."""
    results = {"accuracy": 0.8123, "worst_group_accuracy": 0.61, "worst_group_accuracy_low": 0.5,
               "worst_group_accuracy_high": 0.7, "loss": 1.0}  # fmt: skip
    group = {"name": "a, scene", "accuracy": 0.61, "count": 31, "low": 0.5, "high": 0.7}
    return {
        "task": "image-classification",
        "model": {"name": "guided", "base_model": "some/model", "base_repo": "some/model", "repo": None},
        "data": {"name": "some/data", "repo": "some/data", "revision": "d" * 40, "fingerprint": "abc",
                 "train_rows": 10, "test_rows": 5, "classes": ["a"], "arguments": {"bias": 0.9, "box_column": None}},
        "synthesis": {"method": "CutMix", "alpha": 1.0, "version": 1},
        "method": {"name": "guided", "alpha": 10.0, "form": "share", "mode": "finite_difference", "fraction": 1.0,
                   "labels": "all", "synthesis": "cutmix", "seed": 3, "steps": 7, "epochs": 1.0, "batch_size": 8,
                   "learning_rate": 1e-3, "image_size": 32, "num_frames": None, "train_seconds": 9.0},
        "results": results,
        "groups": {"columns": ["label", "place"], "rows": [group, {**group, "name": "a, other", "accuracy": 0.9}]},
        "comparison": [{"method": "plain", "accuracy": 0.5}, {"method": "guided", **results}],
        "figures": [{"file": "samples.png", "title": "Samples"}],
        "collapsed_at": None,
        "nonfinite_steps": 0,
        "environment": environment(),
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _denormal_floats() -> None:
    """A recipe that ran in this process flushes denormal floats to zero: every test begins without that."""
    torch.set_flush_denormal(False)
