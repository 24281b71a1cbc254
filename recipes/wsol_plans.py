"""Plans of the localization benchmark: lists of runs.

`search` has as many tries for the learning rate of each synthesis as for the alpha of its guidance, seed 0, judged on
masked training photos; `headline` runs the choices over seeds; `ablations` varies one thing at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

SIZES = {"cnn": 128, "vit": 96, "convnext": 96}  # pixels; the ViT and the ConvNeXt start from scratch


@dataclass(frozen=True)
class Run:
    """One training run. `synthesis`: none, cutmix, resizemix, puzzlemix; `masks` as in `train_wsol.py`.

    `automatic`: the rows have provenance already, from a saliency model's masks.
    """

    backbone: str = "cnn"
    synthesis: str = "none"
    form: str = "share"
    alpha: float = 0.0
    masks: str = "true"
    automatic: bool = False
    labels: str = "one"
    mode: str = "finite_difference"
    keep_originals: bool = True
    steps: int = 180
    learning_rate: float = 3e-4
    seed: int = 0


# chosen on masked training photos from the runs of `search` (README, "Localization")
ALPHA = {"share": 1.0, "energy": 1.0, "l2": 1e-5}
MIXES = ("cutmix", "resizemix", "puzzlemix")


def search() -> list[Run]:
    """Three tries each: the learning rate without guidance, alpha with it."""
    runs = []
    for name in ("cutmix", "resizemix"):
        runs += [Run(synthesis=name, alpha=alpha) for alpha in (1.0, 10.0, 0.1)]
    for name in ("none", "cutmix", "resizemix"):
        runs += [Run(synthesis=name, learning_rate=rate) for rate in (3e-4, 1e-3, 1e-4)]
    return runs


def headline() -> list[Run]:
    """The rows of the table, seed by seed, so that an interrupted benchmark leaves complete seeds; PuzzleMix last."""
    runs = []
    for names in (("cutmix", "resizemix"), ("puzzlemix",)):
        for seed in (0, 1, 2):
            runs += [Run(seed=seed)]  # also the saliency of this seed's PuzzleMix
            for name in names:
                runs += [Run(synthesis=name, alpha=ALPHA["share"], seed=seed), Run(synthesis=name, seed=seed)]
    return list(dict.fromkeys(runs))


def ablations() -> list[Run]:
    """CutMix with other masks, other forms, and alpha over four decades around each form's default."""
    guided = Run(synthesis="cutmix", alpha=ALPHA["share"])
    runs = [replace(guided, masks="random"), replace(guided, form="l2", alpha=ALPHA["l2"], masks="whole")]
    runs += [replace(guided, form=form, alpha=ALPHA[form]) for form in ("l2", "energy")]
    runs += [replace(guided, masks=masks) for masks in ("dilate:0.3", "erode:0.3", "dilate:0.1", "erode:0.1")]
    for form, alpha in ALPHA.items():
        runs += [replace(guided, form=form, alpha=alpha * factor) for factor in (100, 10, 0.1, 0.01)]
    return runs


def objects() -> list[Run]:
    """Provenance of the objects themselves, by a saliency model's masks; then with the masks in the wrong place."""
    alone = Run(automatic=True, alpha=ALPHA["share"])
    runs = [replace(alone, seed=seed, synthesis=name) for name in ("none", "cutmix") for seed in (0, 1, 2)]
    return [*runs, replace(alone, masks="random"), replace(alone, masks="dilate:0.3"), replace(alone, alpha=10.0)]


def scratch() -> list[Run]:
    """A ViT and a ConvNeXt from scratch, which need more and longer steps; the CNN's alpha taken over."""
    runs = []
    for backbone in ("convnext", "vit"):
        run = Run(backbone=backbone, steps=700, learning_rate=1e-3)
        runs += [run, replace(run, synthesis="cutmix"), replace(run, synthesis="cutmix", alpha=ALPHA["share"])]
    return runs
