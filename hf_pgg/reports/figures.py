"""Images: samples with their provenance, input-gradient maps before and after, learning curves.

Every function returns a `matplotlib` figure; `figure.savefig(path)` writes it. No global state of pyplot is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from hf_pgg.data.images import decode_mask, resize, to_rgb
from hf_pgg.data.labels import class_label
from hf_pgg.data.provenance import IMAGE, LABEL_WEIGHTS, LABELS, PROVENANCE
from hf_pgg.data.validation import validate_row
from hf_pgg.guidance.engines import input_gradient
from hf_pgg.guidance.forms import share
from hf_pgg.guidance.modes import evaluation_mode
from hf_pgg.localization.classifier import Classifier
from hf_pgg.localization.score_maps import Explanation


def explanation_sheet(
    classifiers: Sequence[Classifier], names: Sequence[str], images: Sequence[np.ndarray], maps: Explanation
) -> Figure:
    """A line for each image; beside it the map of each checkpoint and method, with the class it explains.

    Args:
        names: Of the images.
        maps: What [`explain`] returns for them.
    """
    titles = dict(zip((c.name for c in classifiers), short_names([c.name for c in classifiers]), strict=True))
    labels = {c.name: c.labels for c in classifiers}
    figure = Figure(figsize=(1.9 * (1 + len(maps)), 2.05 * len(images) + 0.4), layout="constrained")
    grid = figure.subplots(len(images), 1 + len(maps), squeeze=False)
    for line, (name, image) in enumerate(zip(names, images, strict=True)):
        grid[line, 0].imshow(image)
        grid[line, 0].set_title(name, fontsize=7)
        for axes, (key, results) in zip(grid[line, 1:], maps.items(), strict=True):
            checkpoint, method = key
            result, of = results[line], labels[checkpoint]
            explained = f"{of[result.target]} ({result.probabilities[result.target]:.2f})"
            answer = "" if result.target == result.predicted else f", says {of[result.predicted]}"
            heading = f"{titles[checkpoint]}\n{method.replace('_', ' ')}\n" if line == 0 else ""
            axes.set_title(f"{heading}{explained}{answer}", fontsize=7)
            axes.imshow(heat_overlay(image, result.score_map))
    for axes in grid.flat:
        axes.set_axis_off()
    return figure


def draw(
    image: np.ndarray,
    score_map: np.ndarray,
    box: Sequence[float],
    title: str = "",
    truth: Sequence[Sequence[float]] = (),
) -> PILImage.Image:
    """The image (H, W, 3) uint8 under its map, with its box (green) and the true ones (red), `[x, y, w, h]`."""
    canvas = PILImage.fromarray(heat_overlay(image, score_map))
    pen = ImageDraw.Draw(canvas)
    width = max(round(min(canvas.size) / 80), 1)
    for colour, (x, y, w, h) in [*(("red", true) for true in truth), ("lime", box)]:
        pen.rectangle((x, y, max(x + w - 1, x), max(y + h - 1, y)), outline=colour, width=width)
    if title:
        pen.text((3, 2), title, fill="white", stroke_width=1, stroke_fill="black")
    return canvas


_SOURCE_COLOURS = ((0.10, 0.85, 0.35), (0.95, 0.25, 0.85), (0.20, 0.60, 1.00), (1.00, 0.75, 0.10))


def _bare(axes: Axes, title: str = "") -> Axes:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8)
    return axes


def overlay(image: np.ndarray, masks: Sequence[np.ndarray], strength: float = 0.45) -> np.ndarray:
    """Image (H, W, 3) uint8 with each source's mask (H, W) in [0, 1] laid over it in a colour of its own."""
    canvas = image.astype(np.float32) / 255
    for mask, colour in zip(masks, _SOURCE_COLOURS * (1 + len(masks) // len(_SOURCE_COLOURS)), strict=False):
        weight = strength * mask[..., None]
        canvas = (1 - weight) * canvas + weight * np.asarray(colour, np.float32)
    return np.rint(canvas * 255).astype(np.uint8)


def heat_overlay(image: np.ndarray, score_map: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """Image (H, W, 3) uint8 under a map of any size and scale, drawn in colours from its minimum to its maximum."""
    heat = resize(np.ascontiguousarray(score_map, np.float32), image.shape[:2])
    span = float(heat.max() - heat.min())
    heat = (heat - heat.min()) / span if span > 0 else np.zeros_like(heat)
    colours = colormaps["magma"](heat)[..., :3] * 255
    return np.rint((1 - strength) * image + strength * colours).astype(np.uint8)


def sample_grid(dataset: Dataset, count: int = 8, image_column: str = "image", label_column: str = "label") -> Figure:
    """Evenly spaced rows of a dataset: the image above, its provenance overlaid below (grey where none is known)."""
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    figure = Figure(figsize=(1.5 * len(indices), 3.4), layout="constrained")
    grid = figure.subplots(2, len(indices), squeeze=False)
    for column, index in enumerate(indices):
        row = dataset[int(index)]
        image = to_rgb(row[image_column])
        feature = dataset.features[LABELS].feature if LABELS in dataset.features else dataset.features[label_column]
        labels = row.get(LABELS) or [row[label_column]]
        names = " + ".join(feature.int2str(label) if hasattr(feature, "int2str") else str(label) for label in labels)
        _bare(grid[0, column], names).imshow(image)
        if row.get(PROVENANCE) is None:
            _bare(grid[1, column], "no provenance").imshow(image.mean(2), cmap="gray", alpha=0.3)
        else:
            masks = [decode_mask(mask) / 255 for mask in row[PROVENANCE]]
            _bare(grid[1, column]).imshow(overlay(image, masks))
    return figure


def gradient_map(gradient: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """(C, H, W) input gradient to a map (H, W) in [0, 1]: norm over channels, smoothed, its 99th percentile at 1."""
    magnitude = gaussian_filter(np.sqrt((gradient**2).sum(0)), sigma)
    return np.clip(magnitude / max(float(np.percentile(magnitude, 99)), 1e-30), 0, 1)


def gradient_maps(
    models: Mapping[str, torch.nn.Module], dataset: Dataset, collator: PGGCollator, count: int = 8
) -> Figure:
    """The same images under each model: input-gradient map of the true label, its share on the target, the answer.

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
    images = [np.clip((p * std + mean).transpose(1, 2, 0), 0, 1) for p in batch["pixel_values"].numpy()]
    for column, image in enumerate(images):
        _bare(grid[0, column]).imshow(image)
        if PROVENANCE in batch:
            grid[0, column].contour(batch[PROVENANCE][column, 0].numpy(), [0.5], colors="white", linewidths=0.8)
    grid[0, 0].set_ylabel("image, target", fontsize=8)
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
            axes.imshow(images[column].mean(2), cmap="gray", alpha=0.35)
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


@dataclass(frozen=True)
class SheetSample:
    """What the sheet shows of a row: image (H, W, 3) uint8, masks (H, W) in [0, 1] or None, and words."""

    image: np.ndarray
    masks: Sequence[np.ndarray] | None
    words: str

    @property
    def coverage(self) -> float | None:
        """Share of the image that comes from a label's object; None without provenance."""
        return None if self.masks is None else float(np.clip(sum(self.masks), 0, 1).mean())


def sheet_samples(rows: Dataset, image_column: str = IMAGE, label_column: str = "label") -> list[SheetSample]:
    """The rows as the sheet shows them, each checked against the contract.

    Raises:
        ProvenanceError: Naming the row, the column and the remedy.
    """
    label, samples = class_label(rows.features, label_column), []
    for number, row in enumerate(rows):
        validate_row(row, number, label.num_classes, image_column=image_column, label_column=label_column)
        names = [label.int2str(value) for value in row.get(LABELS) or [row[label_column]]]
        weights = row.get(LABEL_WEIGHTS) or [1.0]
        words = " + ".join(
            name if len(names) == 1 else f"{name} ({weight:.0%})" for name, weight in zip(names, weights, strict=True)
        )
        known = row.get(PROVENANCE)
        masks = None if known is None else [decode_mask(mask).astype(np.float32) / 255 for mask in known]
        samples.append(SheetSample(to_rgb(row[image_column]), masks, words))
    return samples


def sample_sheet(samples: Sequence[SheetSample], title: str, columns: int = 4) -> Figure:
    """Each sample beside its provenance; `columns` samples a line.

    The right image of a pair is grey where no label's object is; each source has a colour, the first one green.
    """
    columns = min(columns, len(samples))
    lines = -(-len(samples) // columns)
    figure = Figure(figsize=(3.3 * columns, 1.75 * lines + 0.35), layout="constrained")
    figure.suptitle(title, fontsize=9)
    parts = figure.subfigures(lines, columns, squeeze=False, wspace=0.06, hspace=0)
    for part, sample in zip(parts.flat, samples, strict=False):
        left, right = part.subplots(1, 2)
        left.imshow(sample.image)
        left.set_title(sample.words, fontsize=8)
        grey = np.repeat(sample.image.mean(2, keepdims=True), 3, axis=2)
        if sample.masks is None:
            right.imshow(np.rint(0.3 * grey + 0.7 * 255).astype(np.uint8))
            right.set_title("no provenance", fontsize=8)
        else:
            right.imshow(overlay(grey.astype(np.uint8), sample.masks, strength=0.7))
            right.set_title(f"{sample.coverage:.0%} object", fontsize=8)
        for axes in (left, right):
            axes.set_axis_off()
    return figure


def short_names(names: Sequence[str]) -> list[str]:
    """Each name from the last part in which they all differ on: `plain` and `guided`, `a/out` and `b/out`."""
    parts = [name.rstrip("/").split("/") for name in names]
    for depth in range(1, max(map(len, parts)) + 1):
        short = ["/".join(part[-depth:]) for part in parts]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure, at 130 dots an inch, and the folders above it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_figure(learning_curves({}), f"{folder}/new/curves.png")
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
