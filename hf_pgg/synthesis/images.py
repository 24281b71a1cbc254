"""What the synthesis methods for images share: reading their sources, and the features of what they make."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features

from hf_pgg.data.images import encode_png, resize, to_rgb
from hf_pgg.data.loading import read_row
from hf_pgg.data.provenance import IMAGE, Sources, naming_row, provenance_features, sources_of
from hf_pgg.synthesis.base import Row, RowSynthesizer


@dataclass(frozen=True, kw_only=True)
class Synthesizer(RowSynthesizer, ABC):
    """A synthesis method of images, as a `datasets.map` transform.

    The columns are those of the mapped dataset, and of the source pool where there is one.

    Example:
        >>> from hf_pgg.synthesis import CutMix
        >>> image, sources = CutMix(source=rows).read(rows[1], (8, 8))
        >>> image.shape, sources.labels, sources.masks[0].shape
        ((8, 8, 3), [1], (8, 8))
    """

    output_column = IMAGE

    image_column: str = IMAGE

    def encode(self, image: np.ndarray) -> Any:
        return encode_png(image)

    def contract_features(self, label: ClassLabel) -> Features:
        return provenance_features(label)

    def read(self, row: Row, shape: tuple[int, int] | None = None) -> tuple[np.ndarray, Sources]:
        """A row's image (H, W, 3) uint8 and its sources, brought to `shape` (height, width) if one is given."""
        image = to_rgb(row[self.image_column])
        sources = sources_of(row, image.shape[:2], self.label_column)
        return (image, sources) if shape is None else (resize(image, shape), sources.resized(shape))


@dataclass(frozen=True, kw_only=True)
class PairSynthesizer(Synthesizer, ABC):
    """A method that mixes each row with a partner from a source pool; a new one is a class with one function.

    Args:
        source (`Dataset`): The pool: the mapped dataset itself or another with the same classes, map-style.

    Example:
        >>> from hf_pgg.synthesis.base import Sample
        >>> from hf_pgg.synthesis.pasting import blend
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Halves(PairSynthesizer):
        ...     '''The left half of an image beside the right half of another.'''
        ...     def synthesize(self, row, rng):
        ...         image, sources = self.read(row)
        ...         other, other_sources = self.partner(rng, image.shape[:2])
        ...         right = np.zeros(image.shape[:2], np.float32)
        ...         right[:, image.shape[1] // 2 :] = 1
        ...         return Sample(blend(other, image, right), *sources.mix(other_sources, right))
        >>> Halves(source=rows).map(rows)[0]["label_weights"]
        [0.5, 0.5]
    """

    source: Dataset

    def __post_init__(self) -> None:
        if len(self.source) < 2:
            raise ValueError(f"{type(self).__name__} mixes two images: its source has {len(self.source)} row(s)")

    def partner(self, rng: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, Sources]:
        """Image and sources of a row of the pool, drawn uniformly and brought to `shape` (height, width)."""
        index = int(rng.integers(len(self.source)))
        with naming_row(index, "source"):
            return self.read(read_row(self.source, index), shape)
