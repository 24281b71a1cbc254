"""A folder that is filled with generated rows part by part, by any number of processes, interrupted at any time.

Rows are numbered, and so are the parts that hold them: which rows a part holds depends on its number alone. A part is
a parquet file that is there whole or not at all. Whoever resumes writes the parts that are missing: no row twice, no
row left out. The complete folder is an ordinary data set (`load_dataset(folder)`); before that it cannot be loaded.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, Features
from pyarrow.parquet import read_table

SETTINGS = "generation.yaml"  # no kind of file that `load_dataset` takes for data
_UNFINISHED, _FINISHED = ".parts", "data"  # it passes over the first and finds the second


@dataclass(frozen=True)
class PartStore:
    """The rows 0 ... `total` - 1 in parts of `part_size`.

    Args:
        settings (`Mapping`): What decides the rows: plain values and lists, stored, and compared when a run is resumed.
        part_size (`int`): Rows of a part: what an interruption costs a process at most.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> features = Features(label=rows.features["label"])
        >>> with TemporaryDirectory() as folder:
        ...     store = PartStore(folder, features, total=3, settings={"seed": 0}, part_size=2)
        ...     store.open()
        ...     store.write(0, [{"label": 0}, {"label": 1}])
        ...     list(store.missing_parts())
        [1]
    """

    folder: str
    features: Features
    total: int
    settings: Mapping[str, Any]
    part_size: int = 256

    @property
    def num_parts(self) -> int:
        return -(-self.total // self.part_size)

    def open(self) -> None:
        """Makes the folder; ValueError if one is there that was begun with other settings, naming them."""
        settings = {**self.settings, "total": self.total, "part_size": self.part_size}
        file = Path(self.folder) / SETTINGS
        if not file.exists():
            Path(self.folder).mkdir(parents=True, exist_ok=True)
            draft = _draft_of(file)
            draft.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
            draft.replace(file)
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if changed:
            details = "; ".join(f"{name}: {before.get(name)!r}, now {settings.get(name)!r}" for name in changed)
            raise ValueError(
                f"{self.folder} was begun with other settings ({details}): go on with those, or take another folder"
            )

    def missing_rows(self) -> int:
        """How many rows are not written yet."""
        return sum(len(self.rows_of(part)) for part in self.missing_parts())

    def missing_parts(self, process_index: int = 0, num_processes: int = 1) -> Iterator[int]:
        """The parts that this process has to write: p belongs to process p modulo their number, of this run alone."""
        for part in range(process_index, self.num_parts, num_processes):
            if not any(self._path(part, folder).exists() for folder in (_UNFINISHED, _FINISHED)):
                yield part

    def rows_of(self, part: int) -> range:
        """The numbers of a part's rows."""
        return range(part * self.part_size, min((part + 1) * self.part_size, self.total))

    def write(self, part: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a part, given all of its rows in order; ValueError if rows are missing, or there are too many."""
        if len(rows) != len(self.rows_of(part)):
            raise ValueError(f"part {part} got {len(rows)} rows: give its {len(self.rows_of(part))}")
        columns = {name: [row[name] for row in rows] for name in self.features}
        path = self._path(part, _UNFINISHED)
        path.parent.mkdir(exist_ok=True)
        draft = _draft_of(path)
        Dataset.from_dict(columns, features=self.features).to_parquet(str(draft))
        draft.replace(path)

    def publish(self) -> None:
        """Makes the complete folder a data set; one process calls it, when all have written their parts.

        Raises:
            FileNotFoundError: If parts are missing, with the number of their rows.
        """
        missing = self.missing_rows()
        if missing:
            raise FileNotFoundError(
                f"{missing} of {self.total} rows are missing in {self.folder}: run it again, finished rows are kept"
            )
        unfinished, finished = (Path(self.folder) / name for name in (_UNFINISHED, _FINISHED))
        if not finished.exists():
            for draft in unfinished.glob("*.draft"):  # of a killed process
                draft.unlink()
            unfinished.rename(finished)

    def read(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """Rows of a published folder by their numbers; images as `{"bytes", "path"}`."""
        by_part: dict[int, list[int]] = {}
        for number in numbers:
            by_part.setdefault(number // self.part_size, []).append(number % self.part_size)
        return [
            row
            for part, places in by_part.items()
            for row in read_table(self._path(part, _FINISHED)).take(places).to_pylist()
        ]

    def require_space(self, bytes_per_row: float) -> str:
        """States what the missing rows will take on the disk; OSError if that is more than what is free."""
        missing = self.missing_rows()
        needed = round(missing * bytes_per_row)
        free = shutil.disk_usage(self.folder).free
        statement = (
            f"{missing} of {self.total} images to generate, {needed / 1e9:.2f} GB on the disk; {free / 1e9:.2f} GB are"
            f" free in {self.folder}"
        )
        if needed > free:
            raise OSError(f"not enough disk: {statement}. Generate fewer or smaller images, or take another folder.")
        return statement

    def _path(self, part: int, folder: str) -> Path:
        return Path(self.folder) / folder / f"train-{part:05d}-of-{self.num_parts:05d}.parquet"


def _draft_of(file: Path) -> Path:
    """Where a file is written before it is complete, unlike that of any other process."""
    return file.with_name(f"{file.stem}-{uuid.uuid4().hex}.draft")
