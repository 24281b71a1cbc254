"""What came of a row, and whether that is right."""

from __future__ import annotations

import io
import re
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image as PILImage


class Finding(AssertionError):
    """A row that was not treated as it should be: its kind, and a minimal case."""

    def __init__(self, kind: str, found: str):
        super().__init__(f"{kind}: {found}")
        self.kind = kind


SILENT, RAW, VALID_REFUSED = "silently wrong", "raw traceback", "valid rows refused"


@dataclass(frozen=True)
class Fault:
    """What is wrong with rows: which may be named, by which columns; `rows` None where it is the whole column."""

    rows: frozenset[int] | None
    columns: frozenset[str]
    what: str

    def check(self, error: Exception, rename: Callable[[int], object] = lambda row: row) -> None:
        """Demands that a refusal names one of the rows and one of the columns."""
        text = f"{type(error).__name__}: {error}"
        names_column = any(f"'{column}'" in text for column in self.columns)
        named = {str(rename(row)) for row in self.rows or ()}
        names_row = self.rows is None or any(re.search(rf"\brow {re.escape(name)}\b", text) for name in named)
        if not isinstance(error, ValueError) or not names_column or not names_row:
            last = traceback.extract_tb(error.__traceback__)[-1]
            wanted = f"a ValueError with row {sorted(named)} and column {sorted(self.columns)}"
            raise Finding(RAW, f"{self.what}: {text[:300]!r} (at {last.name}:{last.lineno}), not {wanted}")


def outcome(run: Callable[[], Any], fault: Fault | None = None, rename: Callable[[int], object] = lambda r: r) -> Any:
    """What a step returns; None where it refuses the fault, as it should. What is right must not be refused."""
    try:
        return run()
    except Exception as error:
        if fault is None:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
            raise Finding(VALID_REFUSED, f"{type(error).__name__}: {str(error)[:300]} (at {place})") from error
        fault.check(error, rename)
        return None


def wrong(found: str) -> Finding:
    return Finding(SILENT, found)


def plain(rows: Dataset) -> list[dict[str, Any]]:
    """The rows as they are stored."""
    return list(rows.with_format("arrow")[:].to_pylist())


def stored(value: Any) -> np.ndarray:
    """An image as PIL alone reads it."""
    if isinstance(value, dict):
        value = PILImage.open(io.BytesIO(value["bytes"]))
    return np.asarray(value)


def is_colour(image: np.ndarray, colour: np.ndarray, tolerance: int = 10) -> np.ndarray:
    """Where an image ([T,] H, W, 3) is of a colour, bool."""
    return (np.abs(image.astype(int) - np.asarray(colour, int)) <= tolerance).all(-1)


def any_colour(image: np.ndarray, colours: Iterable[np.ndarray]) -> np.ndarray:
    found = np.zeros(image.shape[:-1], bool)
    for colour in colours:
        found |= is_colour(image, colour)
    return found
