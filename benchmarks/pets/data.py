"""Pets on scenes: cut-outs of pets on scene photos, each class tied to one scene in training.

Builds the data of the benchmark: `setting="a"`, each of three breeds on its scene with probability 0.9; `setting="b"`,
always on its scene in two thirds of the rows, the last third being edits that put it on two other scenes (the setting
of Waterbirds with ALIA edits); `setting="c"`, the large one: all 37 breeds as cat against dog, cut out by automatic
masks, nineteen in twenty on their scene. Test and validation hold every class on every tied scene; validation cut-outs
and scenes are a fifth of train's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, concatenate_datasets, load_dataset

from hf_pgg import Composite

TIED_SCENES = (0, 1, 2)  # forest, sea, street: one for each class
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
        root: Folder that holds `oxford-pets-masks`, `scene-backgrounds`, and for setting c also `oxford-pets-37` and
            `oxford-pets-salient-masks`.
        setting (`str`): `"a"`, `"b"` or `"c"`.
        size (`int`): Side of the images, in pixels.
        seed (`int`): Of the composites; the split into train and validation is the same for every seed.
        bias (`bool`): False ties nothing: every breed on each tied scene alike, as many rows.
        edits (`bool`): False puts the edited third of setting b on the tied scenes too.
    """
    cutouts_of = _cats_and_dogs if setting == "c" else _three_breeds
    pets = {split: cutouts_of(root, split) for split in ("train", "test")}
    scenes = {split: load_dataset(f"{root}/scene-backgrounds", split=split) for split in ("train", "test")}
    pets_held, pets_kept = _fifth(pets["train"])
    scenes_held, scenes_kept = _fifth(scenes["train"])

    scenes_used = TIED_SCENES[: pets["train"].features["label"].num_classes]
    draws = 1 if setting == "c" else 3
    uniform = tuple(probabilities(dict.fromkeys(scenes_used, 1 / len(scenes_used))) for _ in scenes_used)
    own = {"a": 0.9, "b": 1.0, "c": 0.95}[setting]
    other = (1 - own) / (len(scenes_used) - 1)
    tied = tuple(
        probabilities({scene: own if scene == mine else other for scene in scenes_used}) for mine in scenes_used
    )

    def paste(cutouts: Dataset, pool: Dataset, matrix: tuple[tuple[float, ...], ...], draw: int) -> Dataset:
        method = Composite(
            backgrounds=pool,
            mask_column="mask",
            target_value=None if setting == "c" else 1,
            size=size,
            scale=(0.5, 0.9),
            background_column="label",
            cooccurrence=matrix,
            seed=1000 * seed + draw,
        )
        return method.map(cutouts).remove_columns(["mask"])

    def everywhere(cutouts: Dataset, pool: Dataset, draws: int) -> Dataset:
        only = [tuple(probabilities({scene: 1.0}) for _ in scenes_used) for scene in scenes_used]
        return concatenate_datasets(
            [paste(cutouts, pool, only[i], 100 + 10 * d + i) for d in range(draws) for i in range(len(only))]
        )

    if not bias:
        parts = [paste(pets_kept, scenes_kept, uniform, draw) for draw in range(draws)]
    elif setting != "b":
        parts = [paste(pets_kept, scenes_kept, tied, draw) for draw in range(draws)]
    else:
        parts = [paste(pets_kept, scenes_kept, tied, draw) for draw in range(2)]
        elsewhere = tuple(probabilities(dict.fromkeys(EDIT_SCENES, 1 / 2)) for _ in scenes_used)
        parts.append(paste(pets_kept, scenes_kept, elsewhere if edits else tied, 2))
    edited = [int(setting == "b" and edits and i == 2) for i, part in enumerate(parts) for _ in range(len(part))]
    train = concatenate_datasets(parts).add_column("is_edit", edited)
    validation = everywhere(pets_held, scenes_held, 1 if setting == "c" else 2)
    return PetsOnScenes(train, validation, everywhere(pets["test"], scenes["test"], 1))


def _cats_and_dogs(root: str | Path, split: str) -> Dataset:
    """All photos, labelled by species, with their automatic masks."""
    photos = load_dataset(f"{root}/oxford-pets-37", split=split)
    masks = load_dataset(f"{root}/oxford-pets-salient-masks", split=split)
    if list(photos["image_id"]) != list(masks["image_id"]):
        raise ValueError(f"photos and masks of {split} are not in the same order")
    photos = photos.select_columns(["image", "species"]).rename_column("species", "label")
    return concatenate_datasets([photos, masks.select_columns(["mask"])], axis=1)


def _three_breeds(root: str | Path, split: str) -> Dataset:
    """Rows of the three breeds that have many masks, relabelled 0..2."""
    pets = load_dataset(f"{root}/oxford-pets-masks", split=split)
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
