"""The contract: which pixels of a training sample come from which label's target object.

A sample keeps its provenance beside it in an ordinary `datasets.Dataset`:

| column          | feature                    | meaning                                                        |
| --------------- | -------------------------- | -------------------------------------------------------------- |
| `image`         | `Image()`                  | the synthetic sample; a clip is in `video` instead             |
| `labels`        | `List(ClassLabel)`, K      | the label of each source                                       |
| `label_weights` | `List(Value("float32"))`, K| share of each label in the training target, sums to 1          |
| `provenance`    | `List(Image(mode="L"))`, K | 255 where the pixel comes from that label's target, 0 where not |

`video` is `Video(decode=False)` or `List(Image())`; each of its masks holds the T frames' masks, stacked from top to
bottom. `provenance = None` means that nothing is known, hence *no guidance*: neither "all target" nor "all background";
None in place of one mask says so of that source alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from hf_pgg.data.images import decode_mask, resize_frames

IMAGE = "image"
VIDEO = "video"
LABELS = "labels"
LABEL_WEIGHTS = "label_weights"
PROVENANCE = "provenance"
CONTRACT_COLUMNS = (IMAGE, LABELS, LABEL_WEIGHTS, PROVENANCE)

PADDING_LABEL = -100


class ProvenanceError(ValueError):
    """A row does not keep the contract. The message names the row, the column and the remedy.

    Example:
        >>> raise ProvenanceError(7, "labels", "there is no label", "Remove the row.")
        Traceback (most recent call last):
        hf_pgg.data.provenance.ProvenanceError: row 7, column 'labels': there is no label. Remove the row.
    """

    def __init__(self, row: object, column: str, problem: str, remedy: str):
        super().__init__(f"row {row}, column '{column}': {problem.rstrip('.')}. {remedy}")


@contextmanager
def naming_row(row: object, column: str, remedy: str = "Mend or remove the row.") -> Iterator[None]:
    """Within it, an error of reading becomes a [`ProvenanceError`] that names the row and the column.

    Example:
        >>> with naming_row(7, "image"):
        ...     raise ValueError("there is no image")
        Traceback (most recent call last):
        hf_pgg.data.provenance.ProvenanceError: row 7, column 'image': there is no image. Mend or remove the row.
    """
    try:
        yield
    except ProvenanceError:
        raise
    except ColumnError as error:
        raise ProvenanceError(row, error.column, error.problem, error.remedy) from error
    except (ValueError, OSError, KeyError) as error:
        raise ProvenanceError(row, column, str(error.args[0] if error.args else error), remedy) from error


class ColumnError(ValueError):
    """A value of a row cannot be read; [`naming_row`] makes it a [`ProvenanceError`], which names the row.

    Example:
        >>> ColumnError("label", "0.5 is no class", "Give a whole number.")
        ColumnError("column 'label': 0.5 is no class. Give a whole number.")
    """

    def __init__(self, column: str, problem: str, remedy: str):
        super().__init__(f"column '{column}': {problem.rstrip('.')}. {remedy}")
        self.column, self.problem, self.remedy = column, problem, remedy


def provenance_features(label: ClassLabel, *, video: Any = None, **extra: Any) -> Features:
    """Returns the `Features` of a dataset that keeps the contract.

    Args:
        video (*optional*): `Video(decode=False)` or `List(Image())`: the feature of the clips that stand in place of
            the images.
        extra: Further columns, name to feature.

    Example:
        >>> list(provenance_features(ClassLabel(names=["cat", "dog"]), scene=Value("string")))
        ['image', 'labels', 'label_weights', 'provenance', 'scene']
    """
    return Features(
        {
            **({IMAGE: Image()} if video is None else {VIDEO: video}),
            LABELS: List(label),
            LABEL_WEIGHTS: List(Value("float32")),
            PROVENANCE: List(Image(mode="L")),
            **extra,
        }
    )


class Sources(NamedTuple):
    """The K sources of a sample: their labels, of which two may be the same, their weights, and their objects' masks.

    Args:
        weights (`list[float]`): Share of each source in the training target.
        masks (`list[np.ndarray | None]`): float32 in [0, 1], (H, W), or (T, H, W) for a clip: 1 where the sample shows
            the label's target; None where that is not known.

    Example:
        >>> cat = Sources([0], [1.0], [np.ones((1, 4), np.float32)])
        >>> dog = Sources([1], [1.0], [np.ones((1, 4), np.float32)])
        >>> cat.mix(dog, np.array([[0, 0, 0, 1.0]])).weights
        [0.75, 0.25]
    """

    labels: list[int]
    weights: list[float]
    masks: list[np.ndarray | None]

    def with_masks(self, change: Callable[[np.ndarray], np.ndarray]) -> Sources:
        """The same sources with every known mask changed."""
        return self._replace(masks=[None if mask is None else change(mask) for mask in self.masks])

    @property
    def target(self) -> np.ndarray | None:
        """The mask of all targets together; None unless every one is known."""
        known = [mask for mask in self.masks if mask is not None]
        return np.clip(sum(known), 0, 1) if known and len(known) == len(self.masks) else None

    def mix(self, other: Sources, mask: np.ndarray) -> Sources:
        """The sources of a mix of two samples, in which the float `mask` is 1 where the mix stems from the other one.

        Weights are the exact shares of the pixels; a source that already has an object mask keeps its part of it,
        one that is not known stays so.
        """
        share = float(mask.mean())
        return Sources(
            [*self.labels, *other.labels],
            [weight * (1 - share) for weight in self.weights] + [weight * share for weight in other.weights],
            self.with_masks(lambda own: own * (1 - mask)).masks + other.with_masks(lambda own: own * mask).masks,
        )

    def resized(self, shape: tuple[int, int]) -> Sources:
        """The same sources with their masks brought to `shape` (height, width), each frame for itself."""
        return self.with_masks(
            lambda mask: resize_frames(mask.reshape(-1, *mask.shape[-2:]), shape).reshape(*mask.shape[:-2], *shape)
        )

    def merged(self) -> Sources:
        """The sources with distinct labels: those of one label become one, their masks added and clipped at 1.

        Where one of them is not known, neither is the label's target.
        """
        labels = list(dict.fromkeys(self.labels))
        groups = [[k for k, found in enumerate(self.labels) if found == label] for label in labels]
        return Sources(
            labels,
            [sum(self.weights[k] for k in group) for group in groups],
            [Sources([], [], [self.masks[k] for k in group]).target for group in groups],
        )


def guided_rows(dataset: Dataset) -> int:
    """Counts the rows that have provenance of some label; the others are not guided.

    Example:
        >>> guided_rows(rows)
        4
    """
    if PROVENANCE not in dataset.column_names:
        return 0
    chunks = dataset.with_format("arrow")[:][PROVENANCE].chunks
    known = (pc.list_parent_indices(chunk).filter(chunk.flatten().is_valid()) for chunk in chunks)
    return sum(len(rows.unique()) for rows in known)


def whole_number(value: Any, column: str) -> int:
    """Reads a class or a group as an integer; what would have to be shortened, or is no number, is refused.

    Raises:
        ColumnError: If there is no value, or it is a name, a list (such as a multi-hot label) or a fraction.

    Example:
        >>> whole_number(np.int64(3), "label"), whole_number(torch.tensor(1), "label")
        (3, 1)
    """
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        value = value.item() if value.ndim == 0 else value.tolist()
    if value is None or value != value:
        raise ColumnError(column, "there is no value", "Give every row one, or remove the row.")
    if isinstance(value, str):
        remedy = "Number the names over all splits at once with `hf_pgg.data.labels.encode_classes`."
        raise ColumnError(column, f"'{value}' is a name, not a number", remedy)
    if isinstance(value, (list, tuple)):
        remedy = f"Give one class's index; of several, '{LABELS}' holds the indices, '{LABEL_WEIGHTS}' the shares."
        raise ColumnError(column, f"{list(value)} is a list, multi-hot or of several, not one class", remedy)
    if not isinstance(value, (int, float)) or value % 1 != 0:  # infinity, too
        raise ColumnError(column, f"{value!r} is not a whole number", "Give the index of a class, 0, 1, ...")
    return int(value)


_WEIGHT_TOLERANCE = 1e-3  # float32 weights of many sources do not sum to 1 exactly


def row_labels(row: Mapping[str, Any], label_column: str = "label") -> tuple[str, list[int], list[float]]:
    """Reads the labels of a row: the column that holds them, the classes' indices, and their weights.

    They are those of the contract where `labels` is a list, else the single label of `label_column`, or of `labels`.

    Raises:
        ColumnError: If a label is missing or not the index of a class, or the weights are not its labels' shares.

    Example:
        >>> row_labels({"label": 3}), row_labels({"labels": 3})
        (('label', [3], [1.0]), ('labels', [3], [1.0]))
    """
    values, weights = row.get(LABELS), row.get(LABEL_WEIGHTS)
    if values is None or np.ndim(values) == 0:
        column = LABELS if row.get(label_column) is None and values is not None else label_column
        if row.get(column) is None:
            raise ColumnError(column, "there is no label", f"Give every row '{label_column}' or '{LABELS}'.")
        values, weights = [row[column]], [1.0]
    else:
        column = LABELS
    if len(values) == 0 or any(value is None for value in values):
        raise ColumnError(column, "there is no label", f"Give every row '{label_column}' or '{LABELS}'.")
    labels = [whole_number(value, column) for value in values]
    if weights is None and len(labels) > 1 and set(labels) <= {0, 1}:
        remedy = f"Give the indices of its classes, and their shares in '{LABEL_WEIGHTS}'."
        raise ColumnError(column, f"{labels} is multi-hot", remedy)
    if min(labels) < 0:
        raise ColumnError(column, f"label {min(labels)} is outside the classes' indices", "Number the classes from 0.")
    return column, labels, _read_weights(weights, len(labels))


def _read_weights(weights: Any, count: int) -> list[float]:
    if weights is None or np.shape(weights) != (count,):
        found = (
            "missing" if weights is None else f"of length {len(weights)}" if np.ndim(weights) == 1 else repr(weights)
        )
        raise ColumnError(LABEL_WEIGHTS, f"{found}, with {count} labels", "Give one weight a label.")
    weights = [float("nan") if weight is None else float(weight) for weight in weights]
    if not np.isfinite(weights).all() or min(weights) < 0 or abs(sum(weights) - 1) > _WEIGHT_TOLERANCE:
        problem = f"{weights} sums to {sum(weights):.4g}, not 1"
        raise ColumnError(LABEL_WEIGHTS, problem, "Divide the weights by their sum.")
    return weights


def sources_of(row: Mapping[str, Any], shape: tuple[int, ...], label_column: str = "label") -> Sources:
    """Reads the sources of a row, with masks of `shape` (H, W), or (T, H, W) for a clip.

    A row with a single label and no provenance is one source whose target is the whole image: what a mixing
    method such as CutMix assumes. Of several labels without provenance no target is known.

    Raises:
        ColumnError: If labels, weights or masks cannot be read, see [`row_labels`], or a mask is of another shape.

    Example:
        >>> sources_of({"label": 3}, (1, 2))
        Sources(labels=[3], weights=[1.0], masks=[array([[1., 1.]], dtype=float32)])
    """
    _, labels, weights = row_labels(row, label_column)
    stored = row.get(PROVENANCE)
    if stored is None:
        return Sources(labels, weights, [np.ones(shape, np.float32)] if len(labels) == 1 else [None] * len(labels))
    if len(stored) != len(labels):
        raise ColumnError(PROVENANCE, f"{len(stored)} masks, {len(labels)} labels", "Give one mask a label.")
    return Sources(labels, weights, [None if mask is None else _stored_mask(mask, shape) for mask in stored])


def _stored_mask(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    try:
        mask = decode_mask(value)
    except (ValueError, OSError) as error:
        raise ColumnError(PROVENANCE, str(error), "Encode it with `encode_mask`.") from error
    if mask.shape != (int(np.prod(shape[:-1])), shape[-1]):
        problem = f"mask of {mask.shape[1]}x{mask.shape[0]} for an image of {shape[-1]}x{shape[0]}"
        if len(shape) == 3:
            size = f"{mask.shape[1]}x{mask.shape[0] / shape[0]:g}"
            problem = f"{shape[0]} masks of {size} for frames of {shape[2]}x{shape[1]}"
        raise ColumnError(PROVENANCE, problem, "Resize the mask with its image.")
    return mask.reshape(shape).astype(np.float32) / 255


def merge_sources(
    labels: torch.Tensor, label_weights: torch.Tensor, provenance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Merges the sources of a batch that share a label: I_c = min(1, sum of the masks with label c).

    Without this, mixing two images of one class would suppress that class's gradient everywhere. Labels are (B, K)
    int64, padded with -100, weights (B, K) float, and masks (B, K, ...) in [0, 1], NaN where one is not known: then the
    merged one is not, either. The later places of a repeated label become padding (-100, 0, 0).

    Example:
        >>> shares, masks = torch.tensor([[0.25, 0.75]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> merge_sources(torch.tensor([[5, 5]]), shares, masks)[:2]
        (tensor([[   5, -100]]), tensor([[1., 0.]]))
    """
    same = (labels[:, :, None] == labels[:, None, :]) & (labels >= 0)[:, :, None]
    first = (labels >= 0) & ~same.tril(-1).any(-1)
    if first.all():
        return labels, label_weights, provenance
    weights = torch.einsum("bkj,bj->bk", same.to(label_weights.dtype), label_weights)
    known = provenance.nan_to_num(0)
    masks = torch.einsum("bkj,bj...->bk...", same.to(provenance.dtype), known).clamp(max=1)
    unknown = (same & provenance.flatten(2)[:, :, 0].isnan()[:, None]).any(-1)
    keep, lost = (which.view(first.shape + (1,) * (provenance.ndim - 2)) for which in (first, unknown))
    return (
        labels.masked_fill(~first, PADDING_LABEL),
        weights.masked_fill(~first, 0),
        masks.masked_fill(lost, torch.nan).masked_fill(~keep, 0),
    )
