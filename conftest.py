"""What the examples in docstrings find without an import: `np`, `torch`, four small data sets, and two small models.

`rows` holds images of cats and dogs with their provenance, `scenes` backgrounds, `clips` short clips of a moving
square with its masks, and `skeletons` the keypoints of one person a clip. All are of 16 x 16 pixels and 8 frames.
`boxed_rows` and `boxed_clips` hold boxes too. `model` is an untrained ViT for the images, `video_model` an untrained
VideoMAE for 4 frames, and `spec` their input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from transformers import VideoMAEConfig, VideoMAEForVideoClassification, ViTConfig, ViTForImageClassification

from hf_pgg.data.images import encode_mask, encode_png
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.provenance import provenance_features
from hf_pgg.skeletons.rows import KEYPOINT_FEATURE

SIDE, FRAMES = 16, 8
ANIMALS = ClassLabel(names=["cat", "dog"])


@pytest.fixture(scope="session", autouse=True)
def _names_in_examples(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(np=np, torch=torch, rows=_rows(), scenes=_scenes(), clips=_clips(), skeletons=_skeletons())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        doctest_namespace.update(_models())
    boxes = [[[t, 6, 4, 4] for t in range(FRAMES)]] * len(doctest_namespace["clips"])
    doctest_namespace["boxed_clips"] = doctest_namespace["clips"].add_column("bboxes", boxes)
    doctest_namespace["boxed_rows"] = doctest_namespace["rows"].add_column("bbox", [[4, 4, 8, 8]] * 4)


def _models() -> dict[str, Any]:
    """Two classes, one layer, patches of four pixels."""
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    shape = {**small, "image_size": SIDE, "patch_size": 4, "num_labels": 2}
    spec = InputSpec((SIDE, SIDE), (SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3)
    video_model = VideoMAEForVideoClassification(VideoMAEConfig(**shape, num_frames=4))
    return {"model": ViTForImageClassification(ViTConfig(**shape)), "video_model": video_model, "spec": spec}


def _rows() -> Dataset:
    """Four grey images with a coloured square: cat, dog, cat, dog."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("image", "mask", "label", "row_id", "labels", "label_weights", "provenance")
    }
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4:12, 4:12] = True
    for i in range(4):
        image = np.full((SIDE, SIDE, 3), 40 + 40 * i, np.uint8)
        image[mask] = (250, 60 * i, 0)
        values = (encode_png(image), encode_mask(mask), i % 2, i, [i % 2], [1.0], [encode_mask(mask)])
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    features = {**provenance_features(ANIMALS), "mask": Image(), "label": ANIMALS, "row_id": Value("int64")}
    return Dataset.from_dict(columns, features=Features({name: features[name] for name in columns}))


def _scenes() -> Dataset:
    """Two backgrounds of one colour each: a beach and a forest."""
    images = [encode_png(np.full((SIDE, SIDE, 3), colour, np.uint8)) for colour in ((240, 220, 160), (20, 90, 30))]
    features = Features(image=Image(), label=ClassLabel(names=["beach", "forest"]))
    return Dataset.from_dict({"image": images, "label": [0, 1]}, features=features)


def _clips() -> Dataset:
    """Four clips of a white square that moves to the right over grey; `masks` holds its masks, stacked."""
    columns: dict[str, list[Any]] = {name: [] for name in ("video", "masks", "label", "row_id")}
    for i in range(4):
        masks = np.zeros((FRAMES, SIDE, SIDE), bool)
        for t in range(FRAMES):
            masks[t, 6:10, t : t + 4] = True
        frames = np.full((FRAMES, SIDE, SIDE, 3), 40 + 40 * i, np.uint8)
        frames[masks] = 255
        for name, value in zip(columns, ([encode_png(f) for f in frames], encode_mask(masks), i % 2, i), strict=True):
            columns[name].append(value)
    features = Features(
        video=List(Image(decode=False)), masks=Image(), label=ClassLabel(names=["walk", "run"]), row_id=Value("int64")
    )
    return Dataset.from_dict(columns, features=features)


def _skeletons() -> Dataset:
    """Four clips of one person with three points (x, y): walk, run, walk, run."""
    person = np.arange(FRAMES * 6, dtype=np.float32).reshape(1, FRAMES, 6)
    features = Features(keypoints=KEYPOINT_FEATURE, label=ClassLabel(names=["walk", "run"]), row_id=Value("int64"))
    columns = {"keypoints": [(person + i).tolist() for i in range(4)], "label": [0, 1, 0, 1], "row_id": [0, 1, 2, 3]}
    return Dataset.from_dict(columns, features=features)
