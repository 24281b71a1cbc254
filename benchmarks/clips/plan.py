"""Plans of the JHMDB-21 benchmark: lists of runs.

`search` has three tries each, seed 0, judged on validation clips of the training split: the learning rate without
guidance, alpha with it. `headline` runs every row at one learning rate over seeds, `tuned` its unguided rows at the one
that the search chose for each; `ablations` varies the provenance and the form, `longer` is the actors on other scenes
with three times the steps. A run that two plans share is made once: all write to one results file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Run:
    """One training run. `synthesis` and `masks` as in `train_stal.py`."""

    synthesis: str = "none"
    form: str = "share"
    alpha: float = 0.0
    masks: str = "true"
    epochs: int = 12
    learning_rate: float = 1e-3
    image_size: int = 32
    num_frames: int = 8
    seed: int = 0


ALPHA = 1.0  # chosen by `search`, as are the learning rates without guidance
TUNED = {"none": 5e-4, "tilemix": 2e-3, "actor": 5e-4}
MIXES = ("tilemix", "actor")


def search() -> list[Run]:
    runs = [Run(learning_rate=rate) for rate in (1e-3, 5e-4, 2e-3)]
    for name in MIXES:
        runs += [Run(synthesis=name, learning_rate=rate) for rate in (1e-3, 5e-4, 2e-3)]
        runs += [Run(synthesis=name, alpha=alpha) for alpha in (1.0, 0.1, 10.0)]
    return runs


def headline() -> list[Run]:
    """Seed by seed, so that an interrupted benchmark leaves complete seeds."""
    runs = []
    for seed in (0, 1, 2):
        runs.append(Run(seed=seed))
        for name in MIXES:
            runs += [Run(synthesis=name, seed=seed), Run(synthesis=name, alpha=ALPHA, seed=seed)]
    return runs


def tuned() -> list[Run]:
    return [Run(synthesis=name, learning_rate=rate, seed=seed) for seed in (0, 1, 2) for name, rate in TUNED.items()]


def longer() -> list[Run]:
    return [Run(synthesis="actor", alpha=alpha, epochs=36, seed=seed) for seed in (0, 1, 2) for alpha in (0.0, ALPHA)]


def ablations() -> list[Run]:
    guided = Run(synthesis="actor", alpha=ALPHA)
    runs = [replace(guided, masks=masks) for masks in ("random", "dilate:0.3", "erode:0.3")]
    return [*runs, replace(guided, form="energy"), replace(guided, form="l2", alpha=1e-5)]
