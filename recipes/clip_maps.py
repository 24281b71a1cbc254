"""An animation of the maps of clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image as PILImage
from PIL import ImageDraw
from torch import nn

from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.labels import class_label
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.provenance import VIDEO
from hf_pgg.data.video import open_clip
from hf_pgg.localization.clips import ClipMap, detect_actions
from hf_pgg.reports.figures import draw


def clip_images(
    model: nn.Module,
    spec: InputSpec,
    test: Dataset,
    localization: Mapping[str, Any],
    sampler: FrameSampler,
    *,
    box_column: str,
    count: int = 6,
    side: int = 144,
) -> list[PILImage.Image]:
    """The frames of an animation: evenly spaced test clips side by side, with map, tube (green) and true box (red).

    Args:
        localization: What [`~hf_pgg.localization.clips.measure_maps`] chose.
    """
    rows = test.select(np.linspace(0, len(test) - 1, min(count, len(test))).astype(int))
    method = ClipMap(*(localization[key] for key in ("map", "smoothing", "over_time"))).method
    found = list(detect_actions(model, spec, rows, method, sampler=sampler))
    names = class_label(test.features, "label").names
    strips = []
    for t in range(len(found[0].indices)):
        strip = PILImage.new("RGB", (side * len(rows), side))
        for column, (row, action) in enumerate(zip(rows, found, strict=True)):
            index = int(action.indices[t])
            with open_clip(row[VIDEO]) as clip:
                frame = clip.read([index])[0]
            x1, y1, x2, y2 = action.tube(localization["threshold"]).boxes[index]
            canvas = draw(frame, action.maps[t], (x1, y1, x2 - x1 + 1, y2 - y1 + 1), truth=[row[box_column][index]])
            strip.paste(canvas.resize((side, side), PILImage.Resampling.NEAREST), (side * column, 0))
            if action.label != row["label"]:
                wrong = f"{names[action.label]}, not {names[row['label']]}"
                strip.paste(_caption(wrong, side), (side * column, side - 14))
        strips.append(strip)
    return strips


def save_animation(frames: Sequence[PILImage.Image], path: Path) -> None:
    """A GIF that repeats, 180 ms a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=180, loop=0)


def _caption(text: str, width: int) -> PILImage.Image:
    canvas = PILImage.new("RGB", (width, 14), "white")
    ImageDraw.Draw(canvas).text((3, 1), text, fill="crimson")
    return canvas
