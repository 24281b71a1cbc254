"""Generated images as a data set: exactly one for each (row, version), each with a seed of its own, resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, Features, Image, Value
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tqdm.auto import tqdm
from transformers.utils import logging

from hf_pgg.data.images import encode_png, resize, to_rgb
from hf_pgg.data.labels import class_feature
from hf_pgg.data.loading import read_row
from hf_pgg.data.provenance import IMAGE
from hf_pgg.generation.prompts import Prompts
from hf_pgg.generation.sampling import Request, Sampler
from hf_pgg.generation.store import PartStore
from hf_pgg.reports.sheets import write_contact_sheets

logger = logging.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What is to be generated: `versions` images of each row of `source`.

    Args:
        source (`Dataset`): The real rows.
        folder (`str`): Where the images are written; see [`~hf_pgg.generation.store.PartStore`].
        seed (`int`): The seed of each image is drawn from it, the row, the version and the attempt.
        keep_columns (`tuple[str, ...]`): Columns of the source that are kept, such as a bias attribute.
        image_column (`str`): The real images, by which the source is told from another and the disk use estimated.
        batch_size (`int`): Images a call of the sampler; no image depends on it.
        part_size (`int`): Images a file: what an interruption costs a process at most.
        max_attempts (`int`): Seeds that are tried before an image that stays black is given up.
        disk_size (`int`, *optional*): Side at which the disk use is estimated; by default that of the real images.

    Raises:
        ValueError: If the source is empty, a number is not positive, or the prompts do not fit the source.

    Example:
        >>> prompts = Prompts(("a photo of a {class}",))
        >>> generation = Generation(source=rows, sampler=None, prompts=prompts, folder="out", versions=2)
        >>> generation.request(5, attempt=1).prompt  # version 1 of row 1
        'a photo of a dog'
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
            raise ValueError("the source has no rows: give at least one to generate from")
        for name in ("versions", "batch_size", "part_size", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")
        absent = [name for name in self.keep_columns if name not in self.source.features]
        if absent:
            known = ", ".join(sorted(self.source.features))
            raise ValueError(f"keep_columns: {', '.join(absent)} is not among the source's columns ({known})")

    @property
    def label_column(self) -> str:
        """The `ClassLabel` column, which the prompts name; it is kept."""
        return self.prompts.label_column

    def store(self) -> PartStore:
        """The folder's parts; checks every prompt."""
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
        """The generated rows' columns: label and kept ones, the image, what it is of, and every parameter."""
        kinds = {str: "string", bool: "bool", int: "int64", float: "float64"}
        return Features(
            {
                self.label_column: class_feature(self.source.features, self.label_column),
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
        """The features of the image and of the columns that it brings along."""
        return {IMAGE: Image()}

    def sample_columns(self, request: Request, image: np.ndarray) -> dict[str, Any]:
        """The values of these columns."""
        return {IMAGE: encode_png(image)}

    def request(self, number: int, attempt: int) -> Request:
        """What is asked for at an attempt (from 1) at an image; images are numbered version by version, row by row."""
        version, index = divmod(number, len(self.source))
        row = read_row(self.source, index)
        # the template is the row's, whatever its version; the seed is the attempt's own
        template = np.random.default_rng([self.seed, index])
        seed = np.random.SeedSequence([self.seed, index, version, attempt]).generate_state(1, np.uint64)[0] >> 1
        return Request(row, self.prompts.render(row, self.source.features, version, template), int(seed))

    def run(self, process_index: int = 0, num_processes: int = 1) -> tuple[int, int]:
        """Generates this process's missing parts, and states the disk use before it starts.

        Call `store().publish()` when all processes have returned, or `complete` in place of both. Returned are the
        numbers of images generated and of black ones drawn again.

        Raises:
            OSError: If the disk cannot hold what is missing.
            RuntimeError: If images stay black at every attempt, naming them; parts without such images are written.
        """
        store = self.store()
        store.open()
        statement = store.require_space(self._bytes_per_image())
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
        return images, redrawn

    def complete(self) -> None:
        """Generates this process's share; then the main process publishes the data set and its contact sheets."""
        # on a CPU, too, where Accelerate must be told to look for other processes
        state = PartialState(cpu=not torch.accelerator.is_available())
        quiet = are_progress_bars_disabled()
        disable_progress_bars()  # those of `datasets`, one a file: the bar that stays counts images
        images, redrawn = self.run(state.process_index, state.num_processes)
        if not quiet:
            enable_progress_bars()
        print(f"process {state.process_index}: {images} images, {redrawn} black ones redrawn", flush=True)
        state.wait_for_everyone()
        if state.is_main_process:
            self.store().publish()
            sheets = self.write_contact_sheets()
            print(f"written: {self.folder} (load_dataset), {len(sheets)} contact sheets in {sheets[0].parent}")
        state.wait_for_everyone()

    def write_contact_sheets(self, per_class: int = 32) -> list[Path]:
        """Writes a contact sheet of each class of the published folder; returns their paths."""
        labels = np.tile(np.asarray(self.source[self.label_column]), self.versions)
        names = class_feature(self.source.features, self.label_column).names
        return write_contact_sheets(self.store().read, labels, names, self.folder, per_class)

    def _batch(self, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Number to row; an empty one where every attempt was black."""
        made: dict[int, dict[str, Any]] = {number: {} for number in numbers}
        for attempt in range(1, self.max_attempts + 1):
            requests = {number: self.request(number, attempt) for number in numbers if not made[number]}
            if not requests:
                break
            images = self.sampler(list(requests.values()))
            for (number, request), image in zip(requests.items(), images, strict=True):
                if image.any():
                    made[number] = self._row(number, attempt, request, image)
        return made

    def _bytes_per_image(self) -> float:
        """What a generated row may take: the mean PNG of some real images at the size of the new ones, and a fifth."""
        images = _some_images(self.source, self.image_column)
        if self.disk_size is not None:
            images = [resize(image, (self.disk_size, self.disk_size)) for image in images]
        return 1.2 * float(np.mean([len(encode_png(image)["bytes"]) for image in images]))

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


def source_digest(source: Dataset, image_column: str) -> str:
    """Returns what tells a source from another one, wherever it is stored: a digest of its length and some images.

    Example:
        >>> source_digest(rows, "image") == source_digest(rows.select([0, 1, 2]), "image")
        False
    """
    digest = hashlib.sha256(str(len(source)).encode())
    for image in _some_images(source, image_column):
        digest.update(image.tobytes())
    return digest.hexdigest()[:16]


def _some_images(source: Dataset, image_column: str, count: int = 16) -> list[np.ndarray]:
    """Images (H, W, 3) uint8 of rows that are evenly spaced over the source."""
    indices = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)
    return [to_rgb(read_row(source, int(index))[image_column]) for index in indices]
