"""Plans of the pets benchmark: lists of runs.

`search_*` have three tries for every row, on one seed, judged on validation; `headline_*` run the choice over seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Run:
    """One training run. `method`: plain, guided, exchange, exchange+guided, unbiased, unbiased+guided, no-edits."""

    setting: str = "a"
    backbone: str = "cnn"
    method: str = "plain"
    form: str = "share"
    alpha: float = 0.0
    masks: str = "true"
    guide: str = "all"
    logit: str = "label"
    seed: int = 0
    learning_rate: float = 3e-4
    epochs: int = 5
    alpha_warmup: float = 0.0
    head_epochs: int = 0
    clip: float = 1.0
    extra: dict[str, float] = field(default_factory=dict)


SEEDS = (0, 1, 2)  # of `headline`, of the ViT's plans and of `ablations`
# chosen by worst-group accuracy on validation from the searches below
ALPHA = {"share": 10.0, "energy": 10.0, "l2": 1e-5}


def explore() -> list[Run]:
    """One seed each: learning rate, logit, strength, step and mode of share; background exchange; energy."""
    runs = [Run(setting="a", method="guided", alpha=10.0, learning_rate=1e-3)]
    runs += [Run(setting="a", method="guided", logit="centered", alpha=10.0)]
    runs += [Run(setting="a", method="guided", alpha=30.0)]
    runs += [Run(setting="a", method="exchange+guided", alpha=10.0)]
    runs += [Run(setting="b", method="guided", alpha=10.0, extra={"guidance_mode": "exact"})]
    runs += [Run(setting="b", method="guided", form="energy", alpha=10.0)]
    runs += [Run(setting=s, method="guided", alpha=10.0, extra={"guidance_step": 3e-2}) for s in "ab"]
    runs += [Run(setting="a", method="guided", alpha=10.0, extra={"guidance_step": 1e-1})]
    runs += [Run(setting="b", method="guided", alpha=10.0, head_epochs=2)]
    return runs


def search() -> list[Run]:
    """Each form and ablation at three strengths on setting b, share on a and c too, and the baseline's step size."""
    runs = [Run(setting="c", method="guided", alpha=alpha, epochs=2) for alpha in (100.0, 30.0)]
    runs += [Run(setting="b", method="guided", form="share", alpha=alpha) for alpha in (10.0, 30.0, 3.0)]
    runs += [Run(setting="a", method="guided", form="share", alpha=alpha) for alpha in (10.0, 30.0, 3.0)]
    runs += [Run(setting=s, method="plain", learning_rate=lr) for s in "ab" for lr in (3e-4, 1e-3, 1e-4)]
    runs += [Run(setting="b", method="guided", form="l2", alpha=alpha) for alpha in (1e-5, 1e-4, 1e-3)]
    runs += [Run(setting="b", method="guided", form="energy", alpha=alpha) for alpha in (10.0, 3.0, 30.0)]
    runs += [Run(setting="b", method="guided", masks="random", alpha=alpha) for alpha in (10.0, 3.0, 1.0)]
    runs += [Run(setting="b", method="guided", form="l2", masks="whole", alpha=alpha) for alpha in (1e-5, 1e-4, 1e-3)]
    return runs


def vit() -> list[Run]:
    """The ViT takes the CNN's form and alpha over; its step size and epochs were not searched."""
    common = {"backbone": "vit", "learning_rate": 3e-5, "epochs": 3}
    runs = []
    for seed in SEEDS:
        runs += [Run(setting="b", seed=seed, method="guided", alpha=ALPHA["share"], **common)]
        runs += [Run(setting="b", seed=seed, method="plain", **common), Run(method="unbiased", seed=seed, **common)]
    return runs


def headline() -> list[Run]:
    """The rows of the tables, seed by seed, so that an interrupted run leaves complete seeds."""
    runs = []
    for seed in SEEDS:
        runs += [Run(method="unbiased", seed=seed)]
        for setting in "ba":
            share = {"setting": setting, "seed": seed, "alpha": ALPHA["share"]}
            runs += [Run(setting=setting, seed=seed, method=method) for method in ("plain", "exchange")]
            runs += [Run(method="guided", **share), Run(method="exchange+guided", **share)]
        runs += [Run(setting="b", seed=seed, method="guided", masks="random", alpha=ALPHA["share"])]
    return runs


def vit_exchange() -> list[Run]:
    common = {"setting": "b", "backbone": "vit", "learning_rate": 3e-5, "epochs": 3}
    runs = []
    for seed in SEEDS:
        runs += [Run(seed=seed, method="exchange+guided", alpha=ALPHA["share"], **common)]
        runs += [Run(seed=seed, method="exchange", **common)]
    return runs


def large() -> list[Run]:
    """Setting c: all pets, automatic masks, cat against dog. The small settings' choices are taken over."""
    runs = []
    for seed in (0, 1):
        c = {"setting": "c", "seed": seed, "epochs": 2}
        runs += [Run(method=method, **c) for method in ("unbiased", "plain", "exchange")]
        runs += [Run(method=method, alpha=ALPHA["share"], **c) for method in ("guided", "exchange+guided")]
    return runs


def fraction() -> list[Run]:
    """A quarter of the guided rows each step, against all of them (`headline`, and the two further seeds here)."""
    quarter = {"guidance_fraction": 0.25}
    b = {"setting": "b", "method": "guided", "alpha": ALPHA["share"]}
    return [Run(seed=seed, **b) for seed in (3, 4)] + [Run(seed=seed, extra=quarter, **b) for seed in range(5)]


def ablations() -> list[Run]:
    """The paper's form, the whole-image penalty, and energy on setting b; guidance where there is no bias."""
    runs = []
    for seed in SEEDS:
        b = {"setting": "b", "seed": seed}
        runs += [Run(method="unbiased+guided", seed=seed, alpha=ALPHA["share"])]
        runs += [Run(method="guided", form="l2", alpha=ALPHA["l2"], **b)]
        runs += [Run(method="guided", form="l2", masks="whole", alpha=ALPHA["l2"], **b)]
        runs += [Run(method="guided", form="energy", alpha=ALPHA["energy"], **b)]
    return runs
