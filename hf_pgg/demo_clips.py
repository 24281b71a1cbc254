"""The embedded clips: real handwritten digits that move over real photographs, labelled by their motion.

As in `demo_data`, nothing is downloaded. Each of the four motions has a photograph of its own, over which its training
digits move with probability `bias`; in validation and test every photograph is equally likely. Masks and boxes of the
digit are exact on every frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from hf_pgg.demo_data import PHOTOGRAPHS, digits, photographs
from hf_pgg.pictures import decode_mask, encode_mask, encode_png, mask_to_box, to_rgb
from hf_pgg.synthesis.base import resize

MOTIONS = ("left", "right", "up", "down")
_DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # rows, columns
_ALIGNED = ClassLabel(names=["conflicting", "aligned"])


def moving_places(motion: str, num_frames: int, side: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """(T, 2) top left corners of a square of `side` that crosses most of a picture of `size`, evenly, in pixels."""
    free = size - side
    travel = free * rng.uniform(0.6, 1.0)
    start = rng.uniform(0, free - travel)
    along = start + travel * np.linspace(0, 1, num_frames)
    across = np.full(num_frames, rng.uniform(0, free))
    rows, columns = _DIRECTIONS[motion]
    if rows + columns < 0:
        along = along[::-1]
    return np.rint(np.stack([across, along] if rows == 0 else [along, across], axis=1)).astype(int)


def digits_in_motion(bias: float = 0.9, seed: int = 0, size: int = 48, num_frames: int = 8) -> DatasetDict:
    """Splits `train` (1,077 clips), `validation` (360) and `test` (360).

    Columns: `video` (`List(Image())`), `label` (the motion), `masks` (the T masks stacked from top to bottom), `bboxes`
    (T boxes `[x, y, width, height]` in pixels), `background` (the photograph), `aligned` (whether it is the motion's).

    Args:
        bias (`float`): Probability that a training digit moves over its motion's photograph; 0.25 is no bias.
        seed (`int`): Of the clips; the digits of each split are fixed.
        size (`int`): Side of the frames, in pixels.
        num_frames (`int`): T.

    Raises:
        ValueError: If `bias` is not in [0, 1].
    """
    if not 0 <= bias <= 1:
        raise ValueError(f"bias is {bias}: it is a probability")
    scenes = photographs(PHOTOGRAPHS[: len(MOTIONS)], side=size)
    by_photo = [np.flatnonzero(np.asarray(scenes["label"]) == photo) for photo in range(len(MOTIONS))]
    parts = {}
    for number, (split, tied) in enumerate({"train": bias, "validation": None, "test": None}.items()):
        rows: dict[str, list[Any]] = {
            name: [] for name in ("video", "label", "masks", "bboxes", "background", "aligned")
        }
        for i, cutout in enumerate(digits(split)):
            rng = np.random.default_rng([seed, number, i])
            motion = i % len(MOTIONS)
            own = rng.random() < tied if tied is not None else rng.integers(len(MOTIONS)) == 0
            others = [photo for photo in range(len(MOTIONS)) if photo != motion]
            photo = motion if own else int(rng.choice(others))
            background = to_rgb(scenes[int(rng.choice(by_photo[photo]))]["image"])
            frames, masks, boxes = _clip(cutout, background, MOTIONS[motion], num_frames, size, rng)
            rows["video"].append([encode_png(frame) for frame in frames])
            rows["label"].append(motion)
            rows["masks"].append(encode_mask(masks))
            rows["bboxes"].append(boxes)
            rows["background"].append(photo)
            rows["aligned"].append(int(photo == motion))
        features = Features(
            {
                "video": List(Image()),
                "label": ClassLabel(names=list(MOTIONS)),
                "masks": Image(),
                "bboxes": List(List(Value("float32"))),
                "background": scenes.features["label"],
                "aligned": _ALIGNED,
            }
        )
        parts[split] = Dataset.from_dict(rows, features=features)
    return DatasetDict(parts)


def _clip(
    cutout: dict[str, Any], background: np.ndarray, motion: str, num_frames: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[list[float]]]:
    """Frames (T, H, W, 3) uint8, masks (T, H, W) float32 and boxes of a digit that moves over a photograph."""
    side = round(size * rng.uniform(0.35, 0.5))
    digit = resize(to_rgb(cutout["image"]), (side, side))
    ink = resize(decode_mask(cutout["mask"]).astype(np.float32) / 255, (side, side))
    x, y, width, height = mask_to_box(ink > 0.5)
    frames = np.broadcast_to(background, (num_frames, *background.shape)).copy()
    masks = np.zeros(frames.shape[:3], np.float32)
    boxes = []
    for frame, mask, (top, left) in zip(
        frames, masks, moving_places(motion, num_frames, side, size, rng).tolist(), strict=True
    ):
        window = (slice(top, top + side), slice(left, left + side))
        frame[window] = np.rint(ink[..., None] * digit + (1 - ink[..., None]) * frame[window])
        mask[window] = ink
        boxes.append([float(value) for value in (left + x, top + y, width, height)])
    return frames, masks, boxes
