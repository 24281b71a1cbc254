"""A case of images through every step."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_pgg.synthesis import CutMix, PuzzleMix, ResizeMix
from tests.invariants.fuzz import steps
from tests.invariants.fuzz.rows import Case, Truth, boxed_case, contract_case, masked_case, pool_of
from tests.invariants.fuzz.verdicts import Finding, plain

CASES = (masked_case, masked_case, boxed_case, contract_case)


def image_methods(case: Case, pool: Dataset, partners: list[Truth], seed: int) -> dict[str, Any]:
    """`known -> made rows` of each method, with its checks."""
    options = {"source": pool, "seed": seed, **case.options}
    mix = partial(steps.mix, case, pool=pool, partners=partners)
    return {
        "CutMix": partial(mix, method=CutMix(**options)),
        "ResizeMix": partial(mix, method=ResizeMix(**options)),
        "PuzzleMix": partial(mix, method=PuzzleMix(saliency=steps.brightness, blocks=(2, 4), **options)),
        "BackgroundExchange": partial(steps.exchange, case, pool=pool, partners=partners, seed=seed),
        "Composite": partial(steps.composite, case, pool=pool, partners=partners, seed=seed),
        "Edit": partial(steps.edit, case, editor=steps.lit_corner, seed=seed),
        "Edit, said": partial(steps.edit, case, editor=steps.lit_corner_said, seed=seed),
        "dilated": partial(steps.ablate, case, kind="dilate", seed=seed),
        "eroded": partial(steps.ablate, case, kind="erode", seed=seed),
        "misplaced": partial(steps.ablate, case, kind="random", seed=seed),
    }


def made_truths(case: Case, made: Dataset, name: str) -> list[Truth]:
    kept = name in ("dilated", "eroded", "misplaced")
    shown = [truth.shown if kept else None for truth in case.truths]
    shown = shown if len(shown) == len(made) else [None] * len(made)
    return [steps.truth_of_made(row, image) for row, image in zip(plain(made), shown, strict=True)]


def check_image_case(rng: np.random.Generator, folder: Path) -> int:
    """Draws a case, sends it through every step, and returns its number of rows."""
    case = CASES[rng.integers(len(CASES))](rng, folder)
    pool, partners = pool_of(rng)
    notes = [case.name]
    try:
        known = steps.with_provenance(case)
        if known is None:
            return len(case.truths)
        methods = image_methods(case, pool, partners, int(rng.integers(1000)))
        name = str(rng.choice(list(methods)))
        notes.append(name)
        made = methods[name](known)
        if made is not None:
            if case.fault is None and rng.random() < 0.3:
                made = steps.store(made, folder, as_parquet=rng.random() < 0.5)
            truths = None if case.fault else made_truths(case, made, name)
            steps.collate(case, made, truths)
        notes[1:] = ["collator"]
        steps.collate(case, known, case.truths)
    except Finding as finding:
        finding.__notes__ = notes
        raise
    return len(case.truths)
