"""Sheets of many images: thumbnails, samples beside their provenance, and what checkpoints look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure
from PIL import Image as PILImage

from hf_pgg.data.images import resize, to_rgb, undecoded
from hf_pgg.data.labels import class_label
from hf_pgg.data.provenance import IMAGE, LABEL_WEIGHTS, LABELS, PROVENANCE, naming_row, sources_of
from hf_pgg.data.validation import validate_row
from hf_pgg.localization.classifier import Classifier
from hf_pgg.localization.score_maps import Explanation
from hf_pgg.reports.figures import heat_overlay, overlay


def contact_sheet(images: Sequence[np.ndarray], columns: int = 8, side: int = 128) -> np.ndarray:
    """Lays images (H, W, 3) uint8 of any sizes side by side, each fitted into a grey square of `side` pixels.

    Example:
        >>> contact_sheet([np.zeros((20, 40, 3), np.uint8)] * 3, columns=2, side=32).shape
        (64, 64, 3)
    """
    columns = min(columns, len(images))
    lines = -(-len(images) // columns)
    sheet = np.full((lines * side, columns * side, 3), 128, np.uint8)
    for place, image in enumerate(images):
        scale = side / max(image.shape[:2])
        height, width = (max(round(length * scale), 1) for length in image.shape[:2])
        top, left = ((side - length) // 2 for length in (height, width))
        top, left = top + place // columns * side, left + place % columns * side
        sheet[top : top + height, left : left + width] = resize(image, (height, width))
    return sheet


def write_contact_sheets(
    read: Callable[[list[int]], Iterable[Mapping[str, Any]]],
    labels: np.ndarray,
    names: Sequence[str],
    folder: str | Path,
    per_class: int = 32,
) -> list[Path]:
    """Writes a contact sheet (PNG) of each class to `contact_sheets` of a folder: images evenly spaced over its rows.

    Args:
        read: Row numbers to rows with a column `image`.
        labels: (N,) integers, the class of each row; a class without rows has no sheet.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     paths = write_contact_sheets(rows.select, np.array(rows["label"]), ["cat", "dog"], folder)
        >>> [path.name for path in paths]
        ['000-cat.png', '001-dog.png']
    """
    sheets, written = Path(folder) / "contact_sheets", []
    sheets.mkdir(exist_ok=True)
    for label in np.unique(labels):
        numbers = np.flatnonzero(labels == label)
        chosen = numbers[np.linspace(0, len(numbers) - 1, min(per_class, len(numbers))).astype(int)]
        path = sheets / f"{label:03d}-{''.join(c if c.isalnum() else '_' for c in names[label])}.png"
        PILImage.fromarray(contact_sheet([to_rgb(row[IMAGE]) for row in read(chosen.tolist())])).save(path)
        written.append(path)
    return written


@dataclass(frozen=True)
class SheetSample:
    """What a sheet shows of a row: image (H, W, 3) uint8, masks (H, W) in [0, 1] or None, and the classes in words.

    Example:
        >>> SheetSample(np.zeros((2, 2, 3), np.uint8), [np.eye(2)], "cat").coverage
        0.5
    """

    image: np.ndarray
    masks: Sequence[np.ndarray] | None
    words: str

    @property
    def coverage(self) -> float | None:
        """Share of the image that comes from a label's object; None without provenance."""
        return None if self.masks is None else float(np.clip(sum(self.masks), 0, 1).mean())


def sheet_samples(rows: Dataset, image_column: str = IMAGE, label_column: str = "label") -> list[SheetSample]:
    """Prepares rows for [`sample_sheet`], each checked against the contract.

    Raises:
        ProvenanceError: If a row does not keep it; the message names the row, the column and the remedy.

    Example:
        >>> [sample.words for sample in sheet_samples(rows)]
        ['cat', 'dog', 'cat', 'dog']
    """
    label, samples = class_label(rows.features, label_column), []
    for number, row in enumerate(undecoded(rows)):
        validate_row(row, number, label.num_classes, image_column=image_column, label_column=label_column)
        names = [label.int2str(value) for value in row.get(LABELS) or [row[label_column]]]
        weights = row.get(LABEL_WEIGHTS) or [1.0]
        words = " + ".join(
            name if len(names) == 1 else f"{name} ({weight:.0%})" for name, weight in zip(names, weights, strict=True)
        )
        with naming_row(number, image_column):
            image = to_rgb(row[image_column])
            masks = [mask for mask in sources_of(row, image.shape[:2], label_column).masks if mask is not None]
            samples.append(SheetSample(image, None if row.get(PROVENANCE) is None else masks, words))
    return samples


def sample_sheet(samples: Sequence[SheetSample], title: str, columns: int = 4) -> Figure:
    """Draws each sample beside its provenance, `columns` samples a line.

    The right image of a pair is grey where no label's object is; each source has a colour, the first one green.

    Example:
        >>> sample_sheet(sheet_samples(rows), "all rows").subfigs[0].axes[1].get_title()
        '25% object'
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


def explanation_sheet(
    classifiers: Sequence[Classifier], names: Sequence[str], images: Sequence[np.ndarray], maps: Explanation
) -> Figure:
    """Draws a line for each image, and in it the map of each checkpoint and method, with the class it explains.

    `names` are those of the images, `maps` what [`~hf_pgg.localization.score_maps.explain`] returns for them.

    Example:
        >>> from hf_pgg.localization.score_maps import explain
        >>> classifier, images = Classifier("out/plain", model, spec, {0: "cat", 1: "dog"}), [to_rgb(rows[0]["image"])]
        >>> maps = explain([classifier], images, ["grad_cam"], target="cat")
        >>> explanation_sheet([classifier], ["a.png"], images, maps).axes[1].get_title().splitlines()[:2]
        ['plain', 'grad cam']
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


def short_names(names: Sequence[str]) -> list[str]:
    """Shortens paths to their last parts, as many as tell them apart.

    Example:
        >>> short_names(["out/plain", "out/guided"]), short_names(["a/out", "b/out"])
        (['plain', 'guided'], ['a/out', 'b/out'])
    """
    parts = [name.rstrip("/").split("/") for name in names]
    for depth in range(1, max(map(len, parts)) + 1):
        short = ["/".join(part[-depth:]) for part in parts]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)
