"""Pets on scenes: cut-outs of three breeds on scene photos, each breed tied to one scene in training.

Builds the data of the benchmark: `setting="a"`, each breed on its scene with probability 0.9; `setting="b"`, always
on its scene in two thirds of the rows, the last third being edits that put it on two other scenes (the setting of
Waterbirds with ALIA edits). Test and validation
hold every breed on every tied scene; validation cut-outs and scenes are a fifth of train's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, concatenate_datasets, load_dataset

from hf_pgg import Composite

TIED_SCENES = (0, 1, 2)  # forest, sea, street: one for each breed
EDIT_SCENES = (3, 4)  # mountain, indoor
NUM_SCENES = 5


@dataclass
class PetsOnScenes:
    train: Dataset
    validation: Dataset
    test: Dataset


def probabilities(weights: dict[int, float]) -> tuple[float, ...]:
    return tuple(weights.get(scene, 0.0) for scene in range(NUM_SCENES))


def load(
    root: str | Path, setting: str, size: int, seed: int, *, bias: bool = True, edits: bool = True
) -> PetsOnScenes:
    """The three datasets, with `label` (breed), `background` (scene) and `is_edit` columns.

    Args:
        root: Folder that holds `oxford-pets-masks` and `scene-backgrounds`.
        setting (`str`): `"a"` or `"b"`.
        size (`int`): Side of the pictures, in pixels.
        seed (`int`): Of the composites; the split into train and validation is the same for every seed.
        bias (`bool`): False ties nothing: every breed on each tied scene alike, as many rows.
        edits (`bool`): False puts the edited third of setting b on the tied scenes too.
    """
    pets = {split: _three_breeds(load_dataset(f"{root}/oxford-pets-masks", split=split)) for split in ("train", "test")}
    scenes = {split: load_dataset(f"{root}/scene-backgrounds", split=split) for split in ("train", "test")}
    pets_held, pets_kept = _fifth(pets["train"])
    scenes_held, scenes_kept = _fifth(scenes["train"])

    uniform = tuple(probabilities(dict.fromkeys(TIED_SCENES, 1 / 3)) for _ in TIED_SCENES)
    own = 0.9 if setting == "a" else 1.0
    tied = tuple(
        probabilities({scene: own if scene == mine else (1 - own) / 2 for scene in TIED_SCENES}) for mine in TIED_SCENES
    )

    def paste(cutouts: Dataset, pool: Dataset, matrix: tuple[tuple[float, ...], ...], draw: int) -> Dataset:
        method = Composite(
            backgrounds=pool,
            mask_column="mask",
            target_value=1,
            size=size,
            scale=(0.5, 0.9),
            background_column="label",
            cooccurrence=matrix,
            seed=1000 * seed + draw,
        )
        return method.map(cutouts).remove_columns(["mask"])

    def everywhere(cutouts: Dataset, pool: Dataset, draws: int) -> Dataset:
        only = [tuple(probabilities({scene: 1.0}) for _ in TIED_SCENES) for scene in TIED_SCENES]
        return concatenate_datasets(
            [paste(cutouts, pool, only[i], 100 + 10 * d + i) for d in range(draws) for i in range(len(only))]
        )

    if not bias:
        parts = [paste(pets_kept, scenes_kept, uniform, draw) for draw in range(3)]
    elif setting == "a":
        parts = [paste(pets_kept, scenes_kept, tied, draw) for draw in range(3)]
    else:
        parts = [paste(pets_kept, scenes_kept, tied, draw) for draw in range(2)]
        elsewhere = tuple(probabilities(dict.fromkeys(EDIT_SCENES, 1 / 2)) for _ in TIED_SCENES)
        parts.append(paste(pets_kept, scenes_kept, elsewhere if edits else tied, 2))
    edited = [int(setting == "b" and edits and i == 2) for i, part in enumerate(parts) for _ in range(len(part))]
    train = concatenate_datasets(parts).add_column("is_edit", edited)
    return PetsOnScenes(train, everywhere(pets_held, scenes_held, 2), everywhere(pets["test"], scenes["test"], 1))


def _three_breeds(pets: Dataset) -> Dataset:
    """Rows of the three breeds that have many masks, relabelled 0..2."""
    subset = pets.features["subset"].str2int("three_breeds")
    pets = pets.select(np.flatnonzero(np.asarray(pets["subset"]) == subset))
    breeds = sorted(set(pets["label"]))
    names = [pets.features["label"].int2str(breed) for breed in breeds]
    relabelled = [breeds.index(label) for label in pets["label"]]
    pets = pets.select_columns(["image", "mask"]).add_column("label", relabelled)
    return pets.cast_column("label", ClassLabel(names=names))


def _fifth(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """A fifth of each class, drawn with a fixed seed, and the rest."""
    held = dataset.train_test_split(test_size=0.2, stratify_by_column="label", seed=0, load_from_cache_file=False)
    return held["test"], held["train"]
