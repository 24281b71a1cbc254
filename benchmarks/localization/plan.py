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


# share: chosen on masked training photos from the runs of `search`; the others: where `ablations` begins
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
    """One thing at a time around automatic masks, where guidance tells; each form's alpha around its default.

    `l2` with the masks and over the whole image are the pair that the paper compares; `share` of the whole image is
    1 whatever the model does. The mixes' own masks in the wrong place are the paper's random masks.
    """
    guided = Run(automatic=True, alpha=ALPHA["share"])
    whole = replace(guided, form="l2", alpha=ALPHA["l2"])
    runs = [whole, replace(whole, masks="whole"), replace(guided, masks="random")]
    runs += [replace(guided, masks=masks) for masks in ("dilate:0.3", "erode:0.3")]
    runs += [replace(guided, form="energy", alpha=ALPHA["energy"]), Run(synthesis="cutmix", alpha=1.0, masks="random")]
    runs += [replace(guided, alpha=alpha) for alpha in (0.1, 10.0, 100.0)]
    # at its default l2 changes nothing: two decades more, with the whole image beside it again
    runs += [replace(guided, form="l2", alpha=alpha) for alpha in (1e-3, 1e-4)]
    runs += [replace(whole, masks="whole", alpha=1e-3)]
    runs += [replace(guided, masks=masks) for masks in ("dilate:0.1", "erode:0.1")]
    runs += [replace(guided, form="energy", alpha=alpha) for alpha in (10.0, 0.1)]
    return runs


def rates() -> list[Run]:
    """The mixes at the learning rate that `search` chose for them without guidance, with it and without."""
    names, alphas = ("cutmix", "resizemix"), (0.0, ALPHA["share"])
    return [
        Run(synthesis=name, alpha=alpha, learning_rate=1e-3, seed=seed)
        for seed in (0, 1, 2)
        for name in names
        for alpha in alphas
    ]


def objects() -> list[Run]:
    """Provenance of the objects themselves, by a saliency model's masks; then with the masks in the wrong place."""
    alone = Run(automatic=True, alpha=ALPHA["share"])
    return [replace(alone, seed=seed, synthesis=name) for name in ("none", "cutmix") for seed in (0, 1, 2)]


def scratch() -> list[Run]:
    """A ConvNeXt and a ViT from scratch, which need more and longer steps; the CNN's alpha taken over."""
    runs = []
    for backbone in ("convnext", "vit"):
        run = Run(backbone=backbone, steps=500, learning_rate=1e-3)
        runs += [run, replace(run, automatic=True, alpha=ALPHA["share"])]
    return runs
