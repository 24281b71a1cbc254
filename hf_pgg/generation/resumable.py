"""Generated images as a data set: exactly one for each (row, version), each with a seed of its own, resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Value
from tqdm.auto import tqdm
from transformers.utils import logging

from hf_pgg.data.images import encode_png, to_rgb
from hf_pgg.data.loading import read_row
from hf_pgg.data.provenance import IMAGE
from hf_pgg.generation.prompts import Prompts, single_label
from hf_pgg.generation.sampling import Request, Sampler
from hf_pgg.generation.store import PartStore, bytes_per_image

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Report:
    """What a process has generated: images, and how often a black one had to be drawn again."""

    images: int
    redrawn: int


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What is to be generated: `versions` images of each row of `source`.

    Args:
        source (`Dataset`): Real rows.
        sampler ([`Sampler`]): Makes the images.
        prompts ([`Prompts`]): One for each (row, version).
        folder (`str`): Where they are written; see [`PartStore`].
        versions (`int`, *optional*, defaults to 1): Images of each row: n times as many as real ones.
        seed (`int`, *optional*, defaults to 0): An image's own seed is drawn from it, the row and the version.
        keep_columns (`tuple[str, ...]`): Columns of the source that are kept, such as a bias attribute.
        image_column (`str`): The real images, by which the source is told from another and the disk use estimated.
        batch_size (`int`): Images a call of the sampler; no image depends on it.
        part_size (`int`): See [`PartStore`].
        max_attempts (`int`): Seeds that are tried before an image that stays black is given up.
        disk_size (`int`, *optional*): Side at which the disk use is estimated; by default that of the real images.

    Raises:
        ValueError: If the source is empty, a number is not positive, or the prompts do not fit the source.
    """

    source: Dataset
    sampler: Sampler
    prompts: Prompts
    folder: str
    versions: int = 1
    seed: int = 0
    keep_columns: tuple[str, ...] = ()
    image_column: str = IMAGE
    batch_size: int = 8
    part_size: int = 256
    max_attempts: int = 10
    disk_size: int | None = None

    def __post_init__(self) -> None:
        if len(self.source) == 0:
            raise ValueError("the source has no rows to generate from")
        for name in ("versions", "batch_size", "part_size", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        absent = [name for name in self.keep_columns if name not in self.source.features]
        if absent:
            known = ", ".join(sorted(self.source.features))
            raise ValueError(f"keep_columns: {', '.join(absent)} is not among the source's columns ({known})")

    @property
    def label_column(self) -> str:
        """`ClassLabel` of the rows, which the prompts name; kept."""
        return self.prompts.label_column

    def store(self) -> PartStore:
        """The folder's parts. Checks every prompt, and what an interrupted run was begun with."""
        settings = {
            "versions": self.versions,
            "seed": self.seed,
            "prompts": list(self.prompts.templates),
            "keep_columns": list(self.keep_columns),
            "prompts_digest": self.prompts.check(self.source),
            "source_digest": source_digest(self.source, self.image_column),
            **self.sampler.parameters,
        }
        total = self.versions * len(self.source)
        return PartStore(self.folder, self.features(), total, settings, self.part_size)

    def features(self) -> Features:
        """Of the generated rows: image, label and kept columns, what the image is of, and every parameter."""
        kinds = {str: "string", bool: "bool", int: "int64", float: "float64"}
        return Features(
            {
                self.label_column: single_label(self.source.features, self.label_column),
                **{name: self.source.features[name] for name in self.keep_columns},
                **self.sample_features(),
                "source_row": Value("int64"),
                "version": Value("int64"),
                "prompt": Value("string"),
                "seed": Value("int64"),
                "attempts": Value("int64"),
                **{name: Value(kinds[type(value)]) for name, value in self.sampler.parameters.items()},
            }
        )

    def sample_features(self) -> dict[str, Any]:
        """The image and the columns that it brings along, name to feature."""
        return {IMAGE: Image()}

    def sample_columns(self, request: Request, image: np.ndarray) -> dict[str, Any]:
        """The values of `sample_features`."""
        return {IMAGE: encode_png(image)}

    def request(self, number: int, attempt: int) -> Request:
        """What is asked for at an attempt (from 1) at the image of a number: version by version, row by row."""
        version, index = divmod(number, len(self.source))
        row = read_row(self.source, index)
        # the template is the row's, whatever its version; the seed is the attempt's own
        template = np.random.default_rng([self.seed, index])
        seed = np.random.SeedSequence([self.seed, index, version, attempt]).generate_state(1, np.uint64)[0] >> 1
        return Request(row, self.prompts.render(row, self.source.features, version, template), int(seed))

    def run(self, process_index: int = 0, num_processes: int = 1) -> Report:
        """Generates this process's missing parts, and states the disk use before it starts.

        Call `store().publish()` when all processes have returned.

        Raises:
            OSError: If the disk cannot hold what is missing.
            RuntimeError: If images stay black at every attempt, naming them, after all parts without such images
                are written.
        """
        store = self.store()
        store.open()
        statement = store.require_space(bytes_per_image(self.source, self.image_column, self.disk_size))
        if process_index == 0:
            logger.warning(statement)
        given_up: list[int] = []
        images, redrawn = 0, 0
        parts = list(store.missing_parts(process_index, num_processes))
        todo = sum(len(store.rows_of(part)) for part in parts)
        with tqdm(total=todo, desc="images", unit="image", disable=process_index != 0) as bar:
            for part in parts:
                rows: dict[int, dict[str, Any]] = {}
                numbers = store.rows_of(part)
                for start in range(0, len(numbers), self.batch_size):
                    made = self._batch(numbers[start : start + self.batch_size])
                    bar.update(len(made))
                    rows.update({number: row for number, row in made.items() if row})
                    redrawn += sum(row["attempts"] - 1 if row else self.max_attempts - 1 for row in made.values())
                    given_up += [number for number, row in made.items() if not row]
                if len(rows) == len(numbers):
                    store.write(part, [rows[number] for number in numbers])
                    images += len(rows)
        if redrawn:
            logger.warning(f"{redrawn} black images, of a safety filter or refused, were drawn again with other seeds")
        if given_up:
            names = ", ".join("row {1} version {0}".format(*divmod(n, len(self.source))) for n in given_up[:20])
            raise RuntimeError(
                f"{len(given_up)} images stayed black at {self.max_attempts} seeds each ({names}): a safety filter"
                " strikes them. Allow more `max_attempts`, or change the prompts."
            )
        return Report(images, redrawn)

    def _batch(self, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Number to row; an empty one where every attempt was black."""
        made: dict[int, dict[str, Any]] = {number: {} for number in numbers}
        for attempt in range(1, self.max_attempts + 1):
            open_numbers = [number for number in numbers if not made[number]]
            if not open_numbers:
                break
            requests = [self.request(number, attempt) for number in open_numbers]
            images = self.sampler(requests)
            for number, request, image in zip(open_numbers, requests, images, strict=True):
                if image.any():
                    made[number] = self._row(number, attempt, request, image)
        return made

    def _row(self, number: int, attempt: int, request: Request, image: np.ndarray) -> dict[str, Any]:
        version, index = divmod(number, len(self.source))
        kept = (self.label_column, *self.keep_columns)
        return {
            **{name: request.row[name] for name in kept},
            "source_row": index,
            "version": version,
            "prompt": request.prompt,
            "seed": request.seed,
            "attempts": attempt,
            **self.sampler.parameters,
            **self.sample_columns(request, image),
        }


def source_digest(source: Dataset, image_column: str, samples: int = 16) -> str:
    """Tells a source from another one by its length and some of its images, wherever it is stored."""
    digest = hashlib.sha256(str(len(source)).encode())
    for index in np.linspace(0, len(source) - 1, min(samples, len(source))).astype(int):
        digest.update(to_rgb(read_row(source, int(index))[image_column]).tobytes())
    return digest.hexdigest()[:16]
