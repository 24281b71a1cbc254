"""Pictures: samples with their provenance, input-gradient maps before and after, learning curves.

Every function returns a `matplotlib` figure; `figure.savefig(path)` writes it. No global state of pyplot is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from hf_pgg.collator import PGGCollator
from hf_pgg.guidance import evaluation_mode, input_gradient, share
from hf_pgg.pictures import decode_mask, to_rgb
from hf_pgg.provenance import LABELS, PROVENANCE
from hf_pgg.synthesis.base import resize

_SOURCE_COLOURS = ((0.10, 0.85, 0.35), (0.95, 0.25, 0.85), (0.20, 0.60, 1.00), (1.00, 0.75, 0.10))


def _bare(axes: Axes, title: str = "") -> Axes:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8)
    return axes


def overlay(picture: np.ndarray, masks: Sequence[np.ndarray], strength: float = 0.45) -> np.ndarray:
    """Picture (H, W, 3) uint8 with each source's mask (H, W) in [0, 1] laid over it in a colour of its own."""
    canvas = picture.astype(np.float32) / 255
    for mask, colour in zip(masks, _SOURCE_COLOURS * (1 + len(masks) // len(_SOURCE_COLOURS)), strict=False):
        weight = strength * mask[..., None]
        canvas = (1 - weight) * canvas + weight * np.asarray(colour, np.float32)
    return np.rint(canvas * 255).astype(np.uint8)


def heat_overlay(picture: np.ndarray, score_map: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """Picture (H, W, 3) uint8 under a map of any size and scale, drawn in colours from its minimum to its maximum."""
    heat = resize(np.ascontiguousarray(score_map, np.float32), picture.shape[:2])
    span = float(heat.max() - heat.min())
    heat = (heat - heat.min()) / span if span > 0 else np.zeros_like(heat)
    colours = colormaps["magma"](heat)[..., :3] * 255
    return np.rint((1 - strength) * picture + strength * colours).astype(np.uint8)


def sample_grid(dataset: Dataset, count: int = 8, image_column: str = "image", label_column: str = "label") -> Figure:
    """Evenly spaced rows of a dataset: the picture above, its provenance overlaid below (grey where none is known)."""
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    figure = Figure(figsize=(1.5 * len(indices), 3.4), layout="constrained")
    grid = figure.subplots(2, len(indices), squeeze=False)
    for column, index in enumerate(indices):
        row = dataset[int(index)]
        picture = to_rgb(row[image_column])
        feature = dataset.features[LABELS].feature if LABELS in dataset.features else dataset.features[label_column]
        labels = row.get(LABELS) or [row[label_column]]
        names = " + ".join(feature.int2str(label) if hasattr(feature, "int2str") else str(label) for label in labels)
        _bare(grid[0, column], names).imshow(picture)
        if row.get(PROVENANCE) is None:
            _bare(grid[1, column], "no provenance").imshow(picture.mean(2), cmap="gray", alpha=0.3)
        else:
            masks = [decode_mask(mask) / 255 for mask in row[PROVENANCE]]
            _bare(grid[1, column]).imshow(overlay(picture, masks))
    return figure


def gradient_map(gradient: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """(C, H, W) input gradient to a map (H, W) in [0, 1]: norm over channels, smoothed, its 99th percentile at 1."""
    magnitude = gaussian_filter(np.sqrt((gradient**2).sum(0)), sigma)
    return np.clip(magnitude / max(float(np.percentile(magnitude, 99)), 1e-30), 0, 1)


def gradient_maps(
    models: Mapping[str, torch.nn.Module], dataset: Dataset, collator: PGGCollator, count: int = 8
) -> Figure:
    """The same pictures under each model: input-gradient map of the true label, its share on the target, the answer.

    Args:
        models: Name to model, in the order of the rows.
        dataset (`Dataset`): Rows with provenance; `count` evenly spaced ones are shown.
        collator ([`PGGCollator`]): Of the models, without augmentation.
    """
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    rows = [dataset[int(index)] for index in indices]
    batch = collator(rows)
    figure = Figure(figsize=(1.5 * len(rows), 1.75 * (1 + len(models))), layout="constrained")
    grid = figure.subplots(1 + len(models), len(rows), squeeze=False)
    mean, std = (np.asarray(values)[:, None, None] for values in (collator.spec.mean, collator.spec.std))
    pictures = [np.clip((p * std + mean).transpose(1, 2, 0), 0, 1) for p in batch["pixel_values"].numpy()]
    for column, picture in enumerate(pictures):
        _bare(grid[0, column]).imshow(picture)
        if PROVENANCE in batch:
            grid[0, column].contour(batch[PROVENANCE][column, 0].numpy(), [0.5], colors="white", linewidths=0.8)
    grid[0, 0].set_ylabel("picture, target", fontsize=8)
    for line, (name, model) in enumerate(models.items(), start=1):
        with evaluation_mode(model):
            pixels = batch["pixel_values"].to(next(model.parameters()).device).requires_grad_()
            logits = model(pixel_values=pixels).logits
            labels = batch["labels"][:, 0].to(pixels.device)
            gradient = input_gradient(logits, pixels, labels)
        inside = None
        if PROVENANCE in batch:
            inside = 1 - share(gradient, batch[PROVENANCE][:, :1].to(pixels.device), pixels.detach())
        right = (logits.argmax(1) == labels).tolist()
        for column in range(len(rows)):
            words = "right" if right[column] else "wrong"
            title = words if inside is None else f"{words}, {100 * inside[column].item():.0f} % inside"
            axes = _bare(grid[line, column], title)
            axes.title.set_color("black" if right[column] else "crimson")
            axes.imshow(pictures[column].mean(2), cmap="gray", alpha=0.35)
            axes.imshow(gradient_map(gradient[column].cpu().numpy()), cmap="magma", alpha=0.75, vmin=0, vmax=1)
        grid[line, 0].set_ylabel(name, fontsize=8)
    return figure


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Curves from the `log_history` of several runs: classification loss, training accuracy, target gradient share."""
    panels = {
        "classification_loss": "classification loss",
        "train_accuracy": "training accuracy",
        "guidance_loss": "guidance loss",
        "target_gradient_share": "target gradient share",
    }
    figure = Figure(figsize=(3 * len(panels), 2.6), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name, history in histories.items():
            points = [(entry["step"], entry[key]) for entry in history if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        if axes.lines:
            axes.legend(fontsize=7)
    return figure
