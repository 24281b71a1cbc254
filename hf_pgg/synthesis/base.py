"""What every synthesis method shares: how a row gets its random numbers, and how a batch is walked.

A method is a frozen dataclass that `Dataset.map(batched=True, with_indices=True)` calls. Row r of epoch e draws
everything from `default_rng([seed, id of r, e])`: never from its batch, its neighbours or global state, so the result
is the same for any `num_proc`, `batch_size`, order or sharding.
"""

from __future__ import annotations

import contextlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, IterableDataset

from hf_pgg.data.images import encode_mask, undecoded
from hf_pgg.data.labels import class_label, is_scalar, with_classes
from hf_pgg.data.loading import read_column
from hf_pgg.data.provenance import LABEL_WEIGHTS, LABELS, PROVENANCE, naming_row, whole_number

Self = TypeVar("Self", bound="RowTransform")
Synthesis = TypeVar("Synthesis", bound="RowSynthesizer")
Row = Mapping[str, Any]
Batch = Mapping[str, Sequence[Any]]

_NEEDS_ID = (
    "store an id in a column (`dataset.add_column('row_id', range(len(dataset)))`) and name it in `row_id_column`"
)


@dataclass(frozen=True)
class Sample:
    """One synthesized sample with its K sources.

    Args:
        image (`np.ndarray`): (H, W, 3) uint8; of a clip (T, H, W, 3).
        labels, weights: Label of each source, and its share of the training target.
        masks: K masks (H, W), of a clip (T, H, W), float in [0, 1], None where one is not known; None if nothing is.
        extra: Values of the columns that the method adds beside the contract's.

    Example:
        >>> left, right = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
        >>> Sample(np.zeros((1, 2, 3), np.uint8), [4, 7], [0.5, 0.5], [left, right]).labels
        [4, 7]
    """

    image: np.ndarray
    labels: Sequence[int]
    weights: Sequence[float]
    masks: Sequence[np.ndarray | None] | None
    extra: Mapping[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """torch in one thread: with more, a forked worker of `map(num_proc=)` hangs once its parent has used several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, kw_only=True)
class RowTransform(ABC):
    """A `datasets.map` transform whose every draw is decided by (seed, row, epoch), whatever batch the row is in.

    For a new draw each epoch see [`FreshDraws`].

    Args:
        row_id_column (`str`, *optional*): A column of unique ids (int or str). By default the index that `map` passes
            is the id. Needed where there is no lasting index: `IterableDataset`, `with_transform`, the collator.

    Example:
        >>> from hf_pgg.synthesis import CutMix
        >>> method = CutMix(source=rows, row_id_column="row_id")
        >>> method.map(rows)[0]["label_weights"] == method.at_epoch(1).map(rows)[0]["label_weights"]
        False
    """

    seed: int = 0
    epoch: int = 0
    row_id_column: str | None = None
    # `datasets` hashes the fields, not the code: a change of what a method computes must change its number
    version: int = field(default=1, init=False, repr=False)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the method reads from a row, where the row has them."""
        return () if self.row_id_column is None else (self.row_id_column,)

    @abstractmethod
    def __call__(self, batch: Batch, indices: Sequence[int] | None = None) -> dict[str, list[Any]]:
        """A batch of rows (columns of lists) to the columns that change."""

    @abstractmethod
    def features(self, features: Features) -> Features:
        """The features of the mapped dataset, from those of the dataset."""

    def at_epoch(self: Self, epoch: int) -> Self:
        """The same method, drawing for another epoch."""
        return replace(self, epoch=epoch)

    def generator(self, row_id: int | str) -> np.random.Generator:
        """The row's own random numbers for this epoch."""
        number = row_id if isinstance(row_id, int) else zlib.crc32(str(row_id).encode())
        return np.random.default_rng([self.seed, number, self.epoch])

    def map(self, dataset: Dataset | IterableDataset, **map_kwargs: Any) -> Any:
        """`dataset.map` with this method, its features and its indices. `map_kwargs`: `num_proc`, `batch_size`, ..."""
        if isinstance(dataset, IterableDataset) and self.row_id_column is None:
            raise ValueError(f"an IterableDataset has no lasting row index (it restarts in every shard): {_NEEDS_ID}")
        check_row_ids(dataset, self.row_id_column)
        map_kwargs.setdefault("batch_size", 32)  # images: the default of 1000 rows would be held in memory at once
        if isinstance(dataset, IterableDataset):
            dataset = undecoded(dataset)  # of a Dataset, `read_column` takes the stored images
        map_kwargs["features"] = self.features(dataset.features)
        return dataset.map(self, batched=True, with_indices=True, **map_kwargs)

    def _row_id(self, row: Row, index: int | None) -> int | str:
        if self.row_id_column is not None:
            if row.get(self.row_id_column) is None:
                raise ValueError(f"the row has no id in column '{self.row_id_column}'; its columns are {sorted(row)}")
            row_id = row[self.row_id_column]
            return row_id if isinstance(row_id, str) else _whole_id(row_id, self.row_id_column)
        if index is None:
            raise ValueError(f"outside `map` a row has no index to draw its numbers from: {_NEEDS_ID}")
        return int(index)


def _whole_id(value: Any, column: str) -> int:
    if isinstance(value, (bool, float, np.floating)) or getattr(value, "is_floating_point", bool)():
        raise ValueError(f"column '{column}' holds {value!r}, no id: {_NEEDS_ID}")
    return whole_number(value, column)


def check_row_ids(dataset: Any, column: str | None) -> None:
    """Refuses ids that are fractions, missing or held by two rows, which would draw the same.

    Only a map-style dataset that has the column is looked at.

    Raises:
        ValueError: If an id is not one row's own; the message names the rows.

    Example:
        >>> check_row_ids(rows, "label")
        Traceback (most recent call last):
        ValueError: rows 0 and 2 have the same id 0 in column 'label', and would draw the same: store an id ...
    """
    if column is None or not isinstance(dataset, Dataset) or column not in dataset.column_names:
        return
    feature = dataset.features[column]
    places: dict[Any, int] = {}
    if not is_scalar(feature, "int", "uint", "string", "large_string"):
        raise ValueError(f"row ids in column '{column}' are {feature}: {_NEEDS_ID}")
    for index, row_id in enumerate(dataset.with_format("arrow")[:][column].to_pylist()):
        if row_id is None:
            raise ValueError(f"row {index} has no id in column '{column}': {_NEEDS_ID}")
        if places.setdefault(row_id, index) != index:
            raise ValueError(
                f"rows {places[row_id]} and {index} have the same id {row_id} in column '{column}', and would draw the"
                f" same: {_NEEDS_ID}"
            )


@dataclass(frozen=True, kw_only=True)
class RowSynthesizer(RowTransform, ABC):
    """A synthesis method of images ([`~hf_pgg.synthesis.images.Synthesizer`]), clips or skeletons.

    The `label_column` is that of the mapped dataset, and of the source pool where there is one.

    Example:
        >>> from hf_pgg.synthesis import CutMix
        >>> CutMix(source=rows).columns
        ('image', 'label', 'labels', 'label_weights', 'provenance')
    """

    output_column: ClassVar[str]

    label_column: str = "label"

    @property
    def input_column(self) -> str:
        """The column of the images, clips or skeletons: `image_column` where the output column is `image`."""
        return str(getattr(self, f"{self.output_column}_column"))

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.input_column, self.label_column, LABELS, LABEL_WEIGHTS, PROVENANCE, *super().columns)

    @abstractmethod
    def encode(self, image: np.ndarray) -> Any:
        """A sample's image, clip or skeletons as the value of the output column."""

    @abstractmethod
    def contract_features(self, label: ClassLabel) -> Features:
        """The features of the contract's columns."""

    @abstractmethod
    def synthesize(self, row: Row, rng: np.random.Generator) -> Sample:
        """The sample that a row becomes; pure in (row, rng)."""

    def for_classes(self: Synthesis, names: Sequence[str]) -> Synthesis:
        """The same method, with the classes of its `source`, where it has one, numbered in the order of `names`."""
        source: Any = getattr(self, "source", None)
        same = source if source is None else with_classes(source, names, self.label_column, "`source`")
        return self if same is source else replace(self, source=same)  # type: ignore[call-arg]

    def map(self, dataset: Dataset | IterableDataset, **map_kwargs: Any) -> Any:
        """`RowTransform.map`, after the classes of a `source` were numbered as in the dataset."""
        names = class_label(dataset.features, self.label_column).names
        return super(RowSynthesizer, self.for_classes(names)).map(dataset, **map_kwargs)

    def extra_features(self) -> dict[str, Any]:
        """Columns that the method adds beside the contract's, name to feature."""
        return {}

    @_one_thread()
    def __call__(self, batch: Batch, indices: Sequence[int] | None = None) -> dict[str, list[Any]]:
        """A batch of rows (columns of lists) to the columns of the contract.

        An image that cannot be read is a ProvenanceError, which names the row; a missing column or id a ValueError.
        """
        columns = {name: read_column(batch, name) for name in batch}
        if self.input_column not in columns:
            raise ValueError(
                f"column '{self.input_column}' is not among {sorted(columns)}: set `{self.output_column}_column`"
            )
        count, extras = len(columns[self.input_column]), self.extra_features()
        names = (self.output_column, LABELS, LABEL_WEIGHTS, PROVENANCE, *extras)
        out: dict[str, list[Any]] = {name: [] for name in names}
        for i in range(count):
            row = {name: values[i] for name, values in columns.items()}
            name = self._row_id(row, None if indices is None else indices[i])
            with naming_row(name, self.input_column, f"{type(self).__name__} failed"):
                sample = self.synthesize(row, self.generator(name))
            out[self.output_column].append(self.encode(sample.image))
            out[LABELS].append([int(label) for label in sample.labels])
            out[LABEL_WEIGHTS].append([float(np.float32(weight)) for weight in sample.weights])  # as stored
            out[PROVENANCE].append(stored_masks(sample.masks))
            for extra in extras:
                out[extra].append(sample.extra[extra])
        return out

    def features(self, features: Features) -> Features:
        label = class_label(features, self.label_column)
        return Features({**features, **self.contract_features(label), **self.extra_features()})


def stored_masks(masks: Sequence[np.ndarray | None] | None) -> list[Any] | None:
    """Returns a sample's masks as the contract stores them.

    Of several sources of which none is known that is None; of one source, None in a list: None alone would say all.

    Example:
        >>> stored_masks([None, None]), stored_masks([None])
        (None, [None])
    """
    if masks is None or (len(masks) > 1 and all(mask is None for mask in masks)):
        return None
    return [None if mask is None else encode_mask(mask) for mask in masks]


class FreshDraws:
    """A method that draws afresh each epoch, for `with_transform` and for the collator's `synthesis`.

    [`~hf_pgg.training.trainer.PGGTrainer`] calls `set_epoch`; a plain loop calls it itself. The epoch lives in shared
    memory: data loader workers see the change, persistent ones too. The method needs a `row_id_column`.

    Example:
        >>> from hf_pgg.synthesis import CutMix
        >>> fresh = FreshDraws(CutMix(source=rows, row_id_column="row_id"))
        >>> drawn = rows.with_transform(fresh)
        >>> before = drawn[0]["label_weights"]
        >>> fresh.set_epoch(1)
        >>> drawn[0]["label_weights"] == before
        False
    """

    def __init__(self, synthesizer: RowTransform):
        if synthesizer.row_id_column is None:
            raise ValueError(f"outside `map` a row has no index to draw its numbers from: {_NEEDS_ID}")
        self.synthesizer = synthesizer
        self._epoch = torch.tensor(synthesizer.epoch, dtype=torch.int64).share_memory_()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the method reads from a row, where the row has them."""
        return self.synthesizer.columns

    def for_classes(self, names: Sequence[str]) -> None:
        """From now on the classes of the method's `source` are numbered in the order of `names`."""
        if isinstance(self.synthesizer, RowSynthesizer):
            self.synthesizer = self.synthesizer.for_classes(names)

    def set_epoch(self, epoch: int) -> None:
        """From now on rows draw as in this epoch, in the workers of a loader too."""
        self._epoch.fill_(epoch)

    def __call__(self, batch: Batch) -> dict[str, list[Any]]:
        if self.synthesizer.epoch != int(self._epoch):
            self.synthesizer = self.synthesizer.at_epoch(int(self._epoch))
        fresh = self.synthesizer(batch)
        return {**{name: list(batch[name]) for name in batch if name not in fresh}, **fresh}
