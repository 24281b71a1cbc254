"""Maps of clips: which one locates best, its figures on test clips, and an animation of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image as PILImage
from PIL import ImageDraw
from torch import nn

from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.labels import class_label
from hf_pgg.data.preprocessing import InputSpec
from hf_pgg.data.provenance import VIDEO
from hf_pgg.data.video import open_clip
from hf_pgg.localization.attribution import AttributionError, Method, center_gaussian
from hf_pgg.localization.clips import detect_actions, evaluate_actions
from hf_pgg.localization.score_maps import SMOOTHED, with_smoothing
from hf_pgg.reports.figures import draw

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
JUDGE = "frame_mAP@0.5"
Map = tuple[str, float, float]  # attribution, smoothing, smoothing over time


def maps_of(attributions: Sequence[str], smoothing: Sequence[float], over_time: Sequence[float]) -> list[Map]:
    """What there is to choose from: every smoothing over time, and of gradient maps every one over the frame."""
    return [
        (name, blur, time)
        for name in attributions
        for blur in (smoothing if name in SMOOTHED else (0.0,))
        for time in over_time
    ]


def measure_maps(
    model: nn.Module, spec: InputSpec, data: DatasetDict, maps: Sequence[Map], sampler: FrameSampler, *, box_column: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Figures of `test` with the map and the threshold that have the best frame-mAP at 0.5 on `validation`.

    Beside them, `frame_mAP@0.5_centre`: that of boxes in the middle of each frame, whose size `validation` chooses too,
    with the same classifier's scores.

    Returns:
        The figures, see [`~hf_pgg.localization.clips.evaluate_actions`]; and map, smoothing, threshold, the central
        boxes' threshold, and the frame-mAP of everything that was compared.
    """

    def measure(split: str, method: Method, thresholds: Sequence[float]) -> dict[float, dict[str, float]]:
        found = detect_actions(model, spec, data[split], method, sampler=sampler)
        return evaluate_actions(found, data[split], thresholds, box_column=box_column)

    def compare(method: Method) -> dict[float, float]:
        return {at: figures[JUDGE] for at, figures in measure("validation", method, THRESHOLDS).items()}

    compared: dict[Map, dict[float, float]] = {}
    for candidate in maps:
        try:
            compared[candidate] = compare(with_smoothing(*candidate))
        except AttributionError as error:
            print(f"{titled(*candidate)}: not for this model ({error})")
    chosen, threshold = max(
        ((candidate, at) for candidate in compared for at in THRESHOLDS),
        key=lambda choice: compared[choice[0]][choice[1]],
    )
    central = compare(center_gaussian)
    size = max(central, key=central.__getitem__)
    results = measure("test", with_smoothing(*chosen), [threshold])[threshold]
    results[f"{JUDGE}_centre"] = measure("test", center_gaussian, [size])[size][JUDGE]
    selection = {f"{titled(*c)} at {at}": value for c, figures in compared.items() for at, value in figures.items()}
    return results, {
        "map": chosen[0],
        "smoothing": chosen[1],
        "over_time": chosen[2],
        "threshold": threshold,
        "centre_threshold": size,
        "selection": selection,
    }


def titled(name: str, blur: float, over_time: float) -> str:
    blurs = [f"blur {blur:g}"] * (name in SMOOTHED) + [f"over time {over_time:g}"] * (over_time > 0)
    return ", ".join([name, *blurs])


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
        localization: Of [`measure_maps`].
    """
    rows = test.select(np.linspace(0, len(test) - 1, min(count, len(test))).astype(int))
    method = with_smoothing(*(localization[key] for key in ("map", "smoothing", "over_time")))
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
