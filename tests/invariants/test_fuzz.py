"""Thousands of seeded rows as people have them: none silently wrong, no raw traceback, no valid row refused."""

from __future__ import annotations

import collections
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.invariants.fuzz.clips import check_clip_case
from tests.invariants.fuzz.images import check_image_case
from tests.invariants.fuzz.others import check_other_case
from tests.invariants.fuzz.training import check_training_case
from tests.invariants.fuzz.verdicts import Finding

CHECKS = {
    "images": check_image_case,
    "clips": check_clip_case,
    "training": check_training_case,
    "others": check_other_case,
}
ORDER = ("images", "clips", "others", "images", "others", "images", "clips", "others", "images", "training")


def run(count: int, seed: int, folder: Path) -> None:
    """Draws cases until they hold `count` rows, and prints the first of every kind of finding."""
    rows, findings = 0, collections.defaultdict(list)
    number = 0
    while rows < count:
        rng = np.random.default_rng([seed, number])
        name = ORDER[number % len(ORDER)]
        case_folder = folder / str(number)
        case_folder.mkdir()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                rows += CHECKS[name](rng, case_folder)
        except Finding as finding:
            notes = ", ".join(getattr(finding, "__notes__", ()))
            findings[finding.kind].append(f"seed [{seed}, {number}], {name} ({notes}): {finding}")
            rows += 5
        number += 1
    told = "\n".join(text for kind in findings.values() for text in kind[:12])
    assert not findings, f"{ {kind: len(texts) for kind, texts in findings.items()} } of {rows} rows\n{told}"


def test_two_thousand_rows_are_right_or_refused_by_row_and_column(tmp_path: Path) -> None:
    run(2000, 0, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1])
def test_ten_thousand_rows_are_right_or_refused_by_row_and_column(seed: int, tmp_path: Path) -> None:
    run(10000, seed, tmp_path)
