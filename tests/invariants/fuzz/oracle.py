"""What rows, mixes and batches must hold, read off their pixels' colours and compared with what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from tests.invariants.fuzz.rows import Truth
from tests.invariants.fuzz.verdicts import any_colour, stored, wrong

SIDE = 16  # of the model's input


def decoded(row: Mapping[str, Any], length: int | None = None) -> list[np.ndarray | None] | None:
    """The stored masks of a row as PIL reads them, float in [0, 1]; of a clip (T, H, W)."""
    if row["provenance"] is None:
        return None
    masks = [None if mask is None else stored(mask) / 255 for mask in row["provenance"]]
    return [mask if mask is None or length is None else mask.reshape(length, -1, mask.shape[1]) for mask in masks]


def compare(found: np.ndarray | None, wanted: np.ndarray | None, tolerance: float, what: str) -> None:
    if (found is None) != (wanted is None):
        raise wrong(f"{what} is {'not ' if found is None else ''}known, but should{'' if found is None else ' not'} be")
    if found is None or wanted is None:
        return
    if found.shape != wanted.shape:
        raise wrong(f"{what} is of shape {found.shape}, not {wanted.shape}")
    off = np.abs(found - wanted)
    if off.max() > tolerance + 1e-6:
        place = np.unravel_index(off.argmax(), off.shape)
        raise wrong(
            f"{what} is {found[place]:.3f} at {tuple(map(int, place))}, where {wanted[place]:.3f} is right"
            f" (mean {found.mean():.3f}, right {wanted.mean():.3f}, shape {found.shape})"
        )


def check_row(row: Mapping[str, Any], truth: Truth, length: int | None = None) -> None:
    """A row that keeps the contract, against its truth."""
    if list(row["labels"]) != truth.labels or not np.allclose(row["label_weights"], truth.weights, atol=1e-6):
        raise wrong(
            f"labels {row['labels']} with {row['label_weights']}: {truth.labels} with {truth.weights} are right"
        )
    found, wanted = decoded(row, length), truth.targets
    nothing = [None] * len(truth.labels)
    for k, pair in enumerate(zip(found or nothing, wanted or nothing, strict=True)):
        compare(*pair, truth.tolerance, f"provenance {k}")


def check_mix(row: Mapping[str, Any], image: np.ndarray, sources: Sequence[Truth], method: str) -> None:
    """A mix ([T,] H, W, 3) of rows: each source's mask, by the colours; labels and weights.

    `sources` are the rows in the order of the labels. A row of one label without provenance is its target as a whole.
    """
    labels = [label for truth in sources for label in truth.labels]
    if list(row["labels"]) != labels:
        raise wrong(f"labels {row['labels']}: {labels} are right")
    if abs(sum(row["label_weights"]) - 1) > 1e-4:
        raise wrong(f"label_weights {row['label_weights']} do not sum to 1")
    length = len(image) if image.ndim == 4 else None
    found = decoded(row, length) or [None] * len(labels)
    distinct: dict[int, tuple[Truth, list[int]]] = {}  # one row may fill two tiles, and be seen in both
    first = 0
    for truth in sources:
        distinct.setdefault(id(truth), (truth, []))[1].append(first)
        first += len(truth.labels)
    seen = {key: any_colour(image, truth.colours) for key, (truth, _) in distinct.items()}
    pure = np.any([*seen.values()], axis=0)
    for key, (truth, places) in distinct.items():
        share = sum(sum(row["label_weights"][k : k + len(truth.labels)]) for k in places)
        others = [own for other, own in seen.items() if other != key]
        low, high = seen[key].mean(), 1 - np.any(others, axis=0).mean() if others else 1.0
        if method in ("CutMix", "VideoMix", "TileMix") and not low - 2e-4 <= share <= high + 2e-4:
            raise wrong(f"weight {share:.4f} of source {places}, whose pixels are {low:.4f} to {high:.4f} of the mix")
        everything = truth.targets is None and len(truth.labels) == 1
        for own in range(len(truth.labels)):
            unknown = not everything and (truth.targets is None or truth.targets[own] is None)
            masks = [found[k + own] for k in places]
            if any(unknown != (mask is None) for mask in masks):
                raise wrong(
                    f"source {places} + {own} is {'' if unknown else 'not '}known, its row's is{' not' * unknown}"
                )
            if not unknown:
                inside = any_colour(image, truth.colours if everything else truth.inside[own])
                limit = 0.6 if method == "PuzzleMix" else 0.3
                _check_source(np.max(masks, axis=0), inside, pure, truth, places[0] + own, limit)


def _check_source(mask: np.ndarray, inside: np.ndarray, pure: np.ndarray, truth: Truth, k: int, limit: float) -> None:
    if mask.shape != inside.shape:
        raise wrong(f"mask {k} is of shape {mask.shape}, its image of {inside.shape}")
    soft = truth.targets is not None and any(
        mask is not None and ((mask > 0.02) & (mask < 0.98)).any() for mask in truth.targets
    )
    limit = 0.75 if soft or truth.tolerance > 0.1 else limit
    low, high = mask[inside & pure], mask[~inside & pure]
    if low.size and low.min() < 1 - limit:
        raise wrong(f"mask {k} is {low.min():.3f} at a pixel of its object")
    if high.size and high.max() > limit:
        raise wrong(f"mask {k} is {high.max():.3f} at a pixel that is not of its object")


def squashed(array: np.ndarray) -> np.ndarray:
    """An image or a mask (H, W[, 3]) brought to the model's input by PIL, as the tiny processor does."""
    image = PILImage.fromarray(array if array.dtype == np.uint8 else array.astype(np.float32))
    return np.asarray(image.resize((SIDE, SIDE), PILImage.Resampling.BILINEAR), np.float32)


def check_batch(batch: Mapping[str, torch.Tensor], truths: Sequence[Truth], groups: bool) -> None:
    """A batch of images or clips, in the order of the rows, against their truth."""
    for i, truth in enumerate(truths):
        frames = truth.shown if truth.shown.ndim == 4 else truth.shown[None]
        pixels = np.stack([squashed(frame) for frame in frames]).transpose(0, 3, 1, 2)
        found = batch["pixel_values"][i].numpy().reshape(pixels.shape) * 127.5 + 127.5
        off = np.abs(found - pixels).max()
        if off > 3.5:
            raise wrong(f"row {i} of the batch: pixels are {off:.1f} of 255 beside the image's")
        _check_labels(batch, i, truth)
        if groups and int(batch["group"][i]) != truth.group:
            raise wrong(f"row {i} of the batch is of group {int(batch['group'][i])}, not {truth.group}")


def _check_labels(batch: Mapping[str, torch.Tensor], i: int, truth: Truth) -> None:
    found = {int(label): k for k, label in enumerate(batch["labels"][i].tolist()) if label >= 0}
    if set(found) != set(truth.labels) or len(found) != int((batch["labels"][i] >= 0).sum()):
        raise wrong(f"row {i} of the batch has labels {batch['labels'][i].tolist()}, not {truth.labels}")
    guided = truth.targets is not None and any(mask is not None for mask in truth.targets)
    if bool(batch["guided"][i]) != guided:
        raise wrong(f"row {i} of the batch is {'not ' * guided}guided")
    for label, k in found.items():
        own = [j for j, name in enumerate(truth.labels) if name == label]
        weight = sum(truth.weights[j] for j in own)
        if abs(float(batch["label_weights"][i, k]) - weight) > 1e-4:
            raise wrong(f"row {i} of the batch: weight {float(batch['label_weights'][i, k]):.4f}, not {weight:.4f}")
        if not guided:
            continue
        masks, known = [truth.targets[j] for j in own], batch["provenance"][i, k].numpy()  # type: ignore[index]
        if any(mask is None for mask in masks) != bool(np.isnan(known).all()):
            raise wrong(f"row {i} of the batch: what is known of label {label} is not what its row knows")
        if not np.isnan(known).any():
            frames = [mask if mask.ndim == 3 else mask[None] for mask in masks if mask is not None]
            wanted = np.clip(sum(np.stack([squashed(frame) for frame in mask]) for mask in frames), 0, 1)
            compare(known.reshape(wanted.shape), wanted, truth.tolerance + 0.02, f"row {i}, batch's mask {k}")
