"""Drawings of what classifiers locate: a figure of test images, and an animation of test clips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure
from PIL import Image as PILImage
from PIL import ImageDraw
from torch import nn

from hf_pgg.data.boxes import indices_with_boxes, read_boxes
from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import to_rgb
from hf_pgg.data.labels import class_label
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.provenance import IMAGE, VIDEO
from hf_pgg.data.video import open_clip
from hf_pgg.localization.clips import ClipMap, DetectedAction, clip_boxes, detect_actions
from hf_pgg.localization.images import box_of_map
from hf_pgg.localization.score_maps import score_maps, with_smoothing
from hf_pgg.reports.figures import draw


def localization_figure(
    methods: Mapping[str, tuple[nn.Module, InputSpec, Mapping[str, Any]]],
    test: Dataset,
    *,
    smoothing: float = 0.0,
    box_column: str = "bbox",
    box_format: str | None = None,
    count: int = 8,
) -> Figure:
    """Draws the same test images under every method: map, box (green) and true box (red).

    Args:
        methods (`Mapping`): Name to the model, its input, and its record's `localization` (`map` and `threshold`).
        test (`Dataset`): Images and labels; `count` evenly spaced rows that have boxes are drawn.
        smoothing (`float`): Blur of gradient maps, as a share of the side.
        box_format (`str`, *optional*): What the numbers of a box are, see [`~hf_pgg.data.boxes.read_boxes`].

    Example:
        >>> chosen = {"map": "grad_cam", "threshold": 0.5}
        >>> figure = localization_figure({"plain": (model, spec, chosen)}, boxed_rows)
        >>> len(figure.axes)
        4
    """
    known = test.select(indices_with_boxes(test, box_column))
    rows = [known[int(i)] for i in np.linspace(0, len(known) - 1, min(count, len(known)))]
    images = [to_rgb(row[IMAGE]) for row in rows]
    labels = [row["label"] for row in rows]
    figure = Figure(figsize=(1.6 * len(rows), 1.75 * len(methods)), layout="constrained")
    grid = figure.subplots(len(methods), len(rows), squeeze=False)
    for line, (name, (model, spec, chosen)) in enumerate(methods.items()):
        scored = score_maps(model, spec, images, with_smoothing(chosen["map"], smoothing), labels)
        for axes, image, row, result in zip(grid[line], images, rows, scored, strict=True):
            box = box_of_map(result.score_map, chosen["threshold"], (image.shape[1], image.shape[0]))
            truth = np.asarray(read_boxes(row[box_column], image.shape[1::-1], box_format))
            truth = np.concatenate([truth[:, :2], truth[:, 2:] - truth[:, :2]], axis=1)
            axes.imshow(draw(image, result.score_map, box, truth=truth.tolist()))
            axes.set_xticks([])
            axes.set_yticks([])
        grid[line, 0].set_ylabel(name.replace(", ", ",\n") + f"\n{chosen['map']}", fontsize=7)
    return figure


def save_clip_animation(
    path: Path,
    model: nn.Module,
    spec: InputSpec,
    test: Dataset,
    localization: Mapping[str, Any],
    sampler: FrameSampler,
    *,
    box_column: str = "bboxes",
    box_format: str | None = None,
    count: int = 6,
    side: int = 144,
) -> None:
    """Writes a GIF of test clips side by side, with map, tube (green) and true box (red); 180 ms a frame.

    Args:
        test (`Dataset`): Clips and labels; `count` evenly spaced ones are drawn, a wrong answer is written below.
        localization (`Mapping`): What [`~hf_pgg.localization.clips.measure_maps`] chose.
        side (`int`): Side of a clip in the animation, in pixels.

    Example:
        >>> import tempfile
        >>> chosen = {"map": "grad_cam", "smoothing": 0.0, "over_time": 0.0, "threshold": 0.5}
        >>> path = Path(tempfile.mkdtemp()) / "clips.gif"
        >>> save_clip_animation(path, video_model, spec, boxed_clips, chosen, FrameSampler(4))
        >>> path.read_bytes()[:6]
        b'GIF89a'
    """
    rows = test.select(np.linspace(0, len(test) - 1, min(count, len(test))).astype(int))
    method = ClipMap(*(localization[key] for key in ("map", "smoothing", "over_time"))).method
    found = list(detect_actions(model, spec, rows, method, sampler=sampler))
    names = class_label(test.features, "label").names
    strips = []
    for t in range(len(found[0].indices)):
        strip = PILImage.new("RGB", (side * len(rows), side))
        for column, (row, action) in enumerate(zip(rows, found, strict=True)):
            boxes = clip_boxes(row[box_column], action.length, action.size, f"row {column}", box_column, box_format)
            canvas = _clip_frame(row, action, t, localization["threshold"], boxes)
            strip.paste(canvas.resize((side, side), PILImage.Resampling.NEAREST), (side * column, 0))
            if action.label != row["label"]:
                wrong = f"{names[action.label]}, not {names[row['label']]}"
                strip.paste(_caption(wrong, side), (side * column, side - 14))
        strips.append(strip)
    path.parent.mkdir(parents=True, exist_ok=True)
    strips[0].save(path, save_all=True, append_images=strips[1:], duration=180, loop=0)


def _clip_frame(
    row: Mapping[str, Any], action: DetectedAction, t: int, threshold: float, boxes: np.ndarray | None
) -> PILImage.Image:
    """The t-th frame that the model sees of a clip, with its map, the tube's box and the true box."""
    index = int(action.indices[t])
    with open_clip(row[VIDEO]) as clip:
        frame = clip.read([index])[0]
    x1, y1, x2, y2 = action.tube(threshold).boxes[index]
    return draw(
        frame,
        action.maps[t],
        (x1, y1, x2 - x1 + 1, y2 - y1 + 1),
        truth=[] if boxes is None else [boxes[index].tolist()],
    )


def _caption(text: str, width: int) -> PILImage.Image:
    canvas = PILImage.new("RGB", (width, 14), "white")
    ImageDraw.Draw(canvas).text((3, 1), text, fill="crimson")
    return canvas
