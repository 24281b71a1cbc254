"""Clips, skeletons and scenes that the tests of synthesis share, and what rows of any kind hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from hf_pgg import add_provenance
from hf_pgg.data.images import decode_mask, encode_mask, encode_png, to_rgb
from hf_pgg.data.video import open_clip
from hf_pgg.skeletons.rows import KEYPOINT_FEATURE

HEIGHT, WIDTH, COUNT = 24, 32, 10
GREY = np.arange(COUNT) * 20 + 40  # clip i is of this grey throughout
LABEL = ClassLabel(names=["jump", "run", "sit"])


def actor_masks(i: int, length: int) -> np.ndarray:
    """An actor that moves to the right, a column a frame."""
    masks = np.zeros((length, HEIGHT, WIDTH), bool)
    for t in range(length):
        masks[t, 6:18, (2 * i + t) % 20 : (2 * i + t) % 20 + 8] = True
    return masks


@pytest.fixture(scope="session")
def clips() -> Dataset:
    """Ten clips of 8 to 12 frames, each of one grey, its actor of another colour; and the actors' masks."""
    rows: dict[str, list[Any]] = {"video": [], "masks": [], "boxes": [], "label": [], "name": []}
    for i in range(COUNT):
        length = 8 + i % 5
        masks = actor_masks(i, length)
        frames = np.full((length, HEIGHT, WIDTH, 3), GREY[i], np.uint8)
        frames[masks] = (GREY[i], 255, 0)
        rows["video"].append([encode_png(frame) for frame in frames])
        rows["masks"].append(encode_mask(masks))
        rows["boxes"].append([[(2 * i + t) % 20, 6, 8, 12] for t in range(length)])
        rows["label"].append(i % 3)
        rows["name"].append(f"clip-{i}")
    features = Features(
        video=List(Image(decode=False)),
        masks=Image(),
        boxes=List(List(Value("float32"))),
        label=LABEL,
        name=Value("string"),
    )
    return Dataset.from_dict(rows, features=features)


@pytest.fixture(scope="session")
def guided_clips(clips: Dataset) -> Dataset:
    return add_provenance(clips, mask_column="masks", video_column="video")


@pytest.fixture(scope="session")
def skeletons() -> Dataset:
    """Eight clips of one or two persons with three points, 8 to 10 frames."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[Any]] = {"keypoints": [], "label": [], "name": []}
    for i in range(8):
        rows["keypoints"].append(rng.normal(size=(1 + i % 2, 8 + i % 3, 6)).tolist())
        rows["label"].append(i % 3)
        rows["name"].append(f"skeleton-{i}")
    return Dataset.from_dict(rows, features=Features(keypoints=KEYPOINT_FEATURE, label=LABEL, name=Value("string")))


@pytest.fixture(scope="session")
def photo_scenes(photos: Dataset) -> Dataset:
    """The photos as backgrounds, with the class of their scene as `label`."""
    return photos.select_columns(["image", "scene"]).rename_column("scene", "label")


def frames_of(row: dict[str, Any]) -> np.ndarray:
    """(T, H, W, 3) all frames of a row's clip."""
    with open_clip(row["video"]) as clip:
        return clip.read(np.arange(len(clip)))


def masks_of(row: dict[str, Any], length: int = 8) -> list[np.ndarray]:
    """The masks (T, H, W) of the sources of a row's clip of `length` frames."""
    return [decode_mask(mask, length) for mask in row["provenance"]]


def contents(rows: Any) -> dict[str, Any]:
    """What rows hold, decoded, by their name: independent of their order."""
    out = {}
    for row in rows:
        if "keypoints" in row:
            sample = row["keypoints"]
        else:
            sample = (frames_of(row) if "video" in row else to_rgb(row["image"])).tobytes()
        masks = [decode_mask(mask).tobytes() for mask in row["provenance"]]
        out[row["name"]] = (sample, row["labels"], row["label_weights"], masks)
    return out
