"""Drawings of images: samples with their provenance, maps of what a classifier looks at, learning curves.

A `matplotlib` figure is written by [`save_figure`]; pyplot and its global state are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image as PILImage
from PIL import ImageDraw
from scipy.ndimage import gaussian_filter

from hf_pgg.data.collator import PGGCollator
from hf_pgg.data.images import decode_mask, resize, to_rgb, undecoded
from hf_pgg.data.provenance import LABELS, PROVENANCE
from hf_pgg.guidance.engines import input_gradient
from hf_pgg.guidance.forms import share
from hf_pgg.guidance.modes import evaluation_mode

_SOURCE_COLOURS = ((0.10, 0.85, 0.35), (0.95, 0.25, 0.85), (0.20, 0.60, 1.00), (1.00, 0.75, 0.10))


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure, at 130 dots an inch, and makes the folders above it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_figure(Figure(figsize=(1, 1)), f"{folder}/new/empty.png")
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


# ---------------------------------------------------------------------------------------------- one image


def overlay(image: np.ndarray, masks: Sequence[np.ndarray], strength: float = 0.45) -> np.ndarray:
    """Lays the mask (H, W) in [0, 1] of each source over an image (H, W, 3) uint8, in a colour of its own.

    Example:
        >>> overlay(np.zeros((1, 2, 3), np.uint8), [np.array([[1.0, 0.0]])], strength=1.0)[0].tolist()  # green, black
        [[26, 217, 89], [0, 0, 0]]
    """
    canvas = image.astype(np.float32) / 255
    for mask, colour in zip(masks, _SOURCE_COLOURS * (1 + len(masks) // len(_SOURCE_COLOURS)), strict=False):
        weight = strength * mask[..., None]
        canvas = (1 - weight) * canvas + weight * np.asarray(colour, np.float32)
    return np.rint(canvas * 255).astype(np.uint8)


def heat_overlay(image: np.ndarray, score_map: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """Lays a map of any size and scale over an image (H, W, 3) uint8, from its minimum (dark) to its maximum (bright).

    Example:
        >>> heat_overlay(np.zeros((1, 2, 3), np.uint8), np.array([[0.0, 7.0]]))[0].tolist()
        [[0, 0, 2], [138, 139, 105]]
    """
    heat = resize(np.ascontiguousarray(score_map, np.float32), image.shape[:2])
    span = float(heat.max() - heat.min())
    heat = (heat - heat.min()) / span if span > 0 else np.zeros_like(heat)
    colours = colormaps["magma"](heat)[..., :3] * 255
    return np.rint((1 - strength) * image + strength * colours).astype(np.uint8)


def gradient_map(gradient: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Turns an input gradient (C, H, W) into a map (H, W) in [0, 1]: its smoothed norm, with the 99th percentile at 1.

    Example:
        >>> gradient_map(np.array([[[3.0, 0.0]], [[4.0, 0.0]]]), sigma=0.1).round(2)
        array([[1., 0.]])
    """
    magnitude = gaussian_filter(np.sqrt((gradient**2).sum(0)), sigma)
    return np.clip(magnitude / max(float(np.percentile(magnitude, 99)), 1e-30), 0, 1)


def draw(
    image: np.ndarray,
    score_map: np.ndarray,
    box: Sequence[float],
    title: str = "",
    truth: Sequence[Sequence[float]] = (),
) -> PILImage.Image:
    """Draws an image (H, W, 3) uint8 under its map, with its box `[x, y, width, height]` (green), true ones in red.

    Example:
        >>> drawn = draw(np.zeros((16, 16, 3), np.uint8), np.zeros((4, 4)), [2, 2, 8, 8])
        >>> drawn.getpixel((2, 2))
        (0, 255, 0)
    """
    canvas = PILImage.fromarray(heat_overlay(image, score_map))
    pen = ImageDraw.Draw(canvas)
    width = max(round(min(canvas.size) / 80), 1)
    for colour, (x, y, w, h) in [*(("red", true) for true in truth), ("lime", box)]:
        pen.rectangle((x, y, max(x + w - 1, x), max(y + h - 1, y)), outline=colour, width=width)
    if title:
        pen.text((3, 2), title, fill="white", stroke_width=1, stroke_fill="black")
    return canvas


# ---------------------------------------------------------------------------------------------- several


def sample_grid(dataset: Dataset, count: int = 8, image_column: str = "image", label_column: str = "label") -> Figure:
    """Draws evenly spaced rows: the image above, its provenance over it below, grey where none is known.

    Example:
        >>> [axes.get_title() for axes in sample_grid(rows, count=2).axes]
        ['cat', 'dog', '', '']
    """
    chosen = _evenly_spaced(dataset, count)
    feature = dataset.features[LABELS].feature if LABELS in dataset.features else dataset.features[label_column]
    figure = Figure(figsize=(1.5 * len(chosen), 3.4), layout="constrained")
    for row, (above, below) in zip(chosen, figure.subplots(2, len(chosen), squeeze=False).T, strict=True):
        image = to_rgb(row[image_column])
        labels = row.get(LABELS) or [row[label_column]]
        names = " + ".join(feature.int2str(label) if hasattr(feature, "int2str") else str(label) for label in labels)
        _bare(above, names).imshow(image)
        if row.get(PROVENANCE) is None:
            _bare(below, "no provenance").imshow(image.mean(2), cmap="gray", alpha=0.3)
        else:
            known = [decode_mask(mask) / 255 for mask in row[PROVENANCE] if mask is not None]
            _bare(below).imshow(overlay(image, known))
    return figure


def _evenly_spaced(dataset: Dataset, count: int) -> list[dict[str, Any]]:
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    return list(undecoded(dataset.select(indices)))


def _bare(axes: Axes, title: str = "") -> Axes:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8)
    return axes


def gradient_maps(
    models: Mapping[str, torch.nn.Module], dataset: Dataset, collator: PGGCollator, count: int = 8
) -> Figure:
    """Draws the same images under each model: the true label's input gradient, its share on the target, the answer.

    Args:
        models: Name to model, in the order of the lines.
        dataset (`Dataset`): Rows with provenance; `count` evenly spaced ones are shown.
        collator: The models' collator, without augmentation.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> collator = PGGCollator(ViTImageProcessor(size={"height": 16, "width": 16}))
        >>> figure = gradient_maps({"untrained": model}, rows, collator, count=2)
        >>> figure.axes[2].get_ylabel(), figure.axes[2].get_title().split(",")[0] in ("right", "wrong")
        ('untrained', True)
    """
    batch = collator(_evenly_spaced(dataset, count))
    images = list(collator.spec.display(batch["pixel_values"]).numpy())
    figure = Figure(figsize=(1.5 * len(images), 1.75 * (1 + len(models))), layout="constrained")
    grid = figure.subplots(1 + len(models), len(images), squeeze=False)
    for column, image in enumerate(images):
        _bare(grid[0, column]).imshow(image)
        if PROVENANCE in batch:
            grid[0, column].contour(batch[PROVENANCE][column, 0].numpy(), [0.5], colors="white", linewidths=0.8)
    grid[0, 0].set_ylabel("image, target", fontsize=8)
    for (name, model), line in zip(models.items(), grid[1:], strict=True):
        gradients, right, inside = _answers(model, batch)
        for column, axes in enumerate(line):
            words = "right" if right[column] else "wrong"
            _bare(axes, words if inside is None else f"{words}, {100 * inside[column]:.0f} % inside")
            axes.title.set_color("black" if right[column] else "crimson")
            axes.imshow(images[column].mean(2), cmap="gray", alpha=0.35)
            axes.imshow(gradient_map(gradients[column]), cmap="magma", alpha=0.75, vmin=0, vmax=1)
        line[0].set_ylabel(name, fontsize=8)
    return figure


def _answers(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor]
) -> tuple[np.ndarray, list[bool], list[float] | None]:
    """Input gradient of the true label, whether the answer is right, the gradient's share inside: of each sample."""
    with evaluation_mode(model):
        pixels = batch["pixel_values"].to(next(model.parameters()).device).requires_grad_()
        logits = model(pixel_values=pixels).logits
        labels = batch["labels"][:, 0].to(pixels.device)
        gradient = input_gradient(logits, pixels, labels)
    inside = None
    if PROVENANCE in batch:
        inside = (1 - share(gradient, batch[PROVENANCE][:, :1].to(pixels.device), pixels.detach())).flatten().tolist()
    return gradient.cpu().numpy(), (logits.argmax(1) == labels).tolist(), inside


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draws classification loss, training accuracy, guidance loss and target gradient share of several log histories.

    Example:
        >>> history = [{"step": 1, "classification_loss": 0.7}, {"step": 2, "classification_loss": 0.5}]
        >>> learning_curves({"plain": history}).axes[0].lines[0].get_ydata().tolist()
        [0.7, 0.5]
    """
    panels = ("classification_loss", "train_accuracy", "guidance_loss", "target_gradient_share")
    figure = Figure(figsize=(3 * len(panels), 2.6), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name, history in histories.items():
            points = [(entry["step"], entry[key]) for entry in history if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
        axes.set_title(key.replace("train_", "training_").replace("_", " "), fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        if axes.lines:
            axes.legend(fontsize=7)
    return figure
