"""The rows of From-Fake-to-Real: real ones tied to a bias, synthetic ones of every (label, bias) group.

The embedded data: is a handwritten digit even or odd, on one of two photographs. Its synthetic rows are those of
`train_pixel_generator.py`, or a stand-in's: cut-outs of the training digits, pasted smaller and with softer edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image, List, Value, concatenate_datasets
from train_cls import open_dataset

from hf_pgg import Composite, PGGConfig
from hf_pgg.data.groups import biased_split, count_groups, take_per_group
from hf_pgg.data.images import encode_png, to_rgb
from hf_pgg.data.provenance import IMAGE, LABEL_WEIGHTS, LABELS, PROVENANCE
from hf_pgg.demo_data import digits, photographs
from hf_pgg.generation import source_digest

PHOTOGRAPHS = ("brick.png", "gravel.png")  # of the even and of the odd digits
SIZE = 32  # pixels of the embedded images
SOURCE = ClassLabel(names=["real", "synthetic"])


@dataclass
class DataArguments:
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Hub id or folder with splits train, validation, test; default: the embedded data."},
    )
    synthetic_dataset: str | None = field(
        default=None, metadata={"help": "Synthetic rows of every group: Hub id, folder or parquet, split train."}
    )
    synthetic_artifact: int = field(
        default=0,
        metadata={"help": "Grey levels of a checkerboard over every synthetic image, by which it can be told."},
    )
    bias_column: str = field(default="bias", metadata={"help": "ClassLabel that the label is tied to."})
    real_masks: bool = field(
        default=False, metadata={"help": "Embedded data: keep the masks of the real digits, as if annotated."}
    )


def load_data(args: DataArguments, config: PGGConfig, bias: float | None, seed: int) -> DatasetDict:
    """Real rows: train (tied to the bias), validation and test."""
    embedded = args.dataset_name is None
    splits = {
        name: on_both(digits(name), args.bias_column) if embedded else open_dataset(str(args.dataset_name), name)
        for name in ("train", "validation", "test")
    }
    if bias is not None:
        splits["train"] = biased_split(splits["train"], config.label_column, args.bias_column, bias, seed)
    if embedded:
        splits = {name: paste(rows, args.bias_column, seed) for name, rows in splits.items()}
    bare = ["validation"] if args.real_masks or not embedded else ["train", "validation"]
    for name in bare:  # many evaluations choose a checkpoint: the target gradient share is that of the test rows
        splits[name] = splits[name].remove_columns([c for c in splits[name].column_names if c == PROVENANCE])
    return DatasetDict({name: as_rows(rows, "real", args, config) for name, rows in splits.items()})


def load_synthetic(
    splits: DatasetDict, counts: np.ndarray, args: DataArguments, config: PGGConfig, seed: int
) -> Dataset:
    """`counts` (labels, biases) synthetic rows."""
    if args.synthetic_dataset is None:
        return as_synthetic(stand_in(counts, args.bias_column, seed), args, config)
    rows = open_synthetic(args.synthetic_dataset, config.image_column)
    for column in (config.label_column, args.bias_column):
        ours, theirs = splits["train"].features[column], rows.features.get(column)
        if getattr(theirs, "names", None) != ours.names:
            raise SystemExit(f"column '{column}' of {args.synthetic_dataset} is {theirs}, of the real rows {ours}")
    chosen = take_per_group(rows, counts, config.label_column, args.bias_column, seed)
    return as_synthetic(chosen, args, config)


def as_synthetic(rows: Dataset, args: DataArguments, config: PGGConfig) -> Dataset:
    """Synthetic rows with the shared columns, and with the artifact that is asked for."""
    rows, amplitude = as_rows(rows, "synthetic", args, config), args.synthetic_artifact
    if not amplitude:
        return rows

    def mark(row: dict[str, Any]) -> dict[str, Any]:
        image = to_rgb(row[config.image_column]).astype(np.int16)
        board = amplitude * (2 * (np.indices(image.shape[:2]).sum(0) % 2) - 1)
        return {config.image_column: encode_png(np.clip(image + board[..., None], 0, 255).astype(np.uint8))}

    return rows.map(mark, features=rows.features)


def open_synthetic(name: str, image_column: str) -> Dataset:
    """Generated rows, whose images are in column `image` or in the real rows' own."""
    rows = open_dataset(name, "train")
    return rows if image_column in rows.column_names else open_dataset(name, "train", columns={IMAGE: image_column})


@lru_cache
def synthetic_digest(name: str, image_column: str) -> str:
    """Tells generated rows from others under the same name."""
    return source_digest(open_synthetic(name, image_column), image_column)


def require_every_group(splits: DatasetDict, label_column: str, bias_column: str) -> None:
    """Exits, naming split and group, where validation or test lacks rows: a worst group is measured over all.

    Training rows may lack a group, which synthetic ones then supply; that is said.
    """
    for split, rows in splits.items():
        names = [rows.features[column].names for column in (label_column, bias_column)]
        for y, b in np.argwhere(count_groups(rows, label_column, bias_column) == 0):
            problem = f"split {split} has no row of {names[0][y]} / {names[1][b]}"
            if split != "train":
                raise SystemExit(f"{problem}: add some, or take the value out of its ClassLabel")
            print(problem, flush=True)


def as_rows(rows: Dataset, source: str, args: DataArguments, config: PGGConfig) -> Dataset:
    """The columns that all rows share; provenance is None where nothing is known."""
    label = rows.features[config.label_column]
    if LABELS not in rows.column_names:
        rows = rows.add_column(LABELS, [[value] for value in rows[config.label_column]], feature=List(label))
        rows = rows.add_column(LABEL_WEIGHTS, [[1.0]] * len(rows), feature=List(Value("float32")))
    if PROVENANCE not in rows.column_names:
        rows = rows.add_column(PROVENANCE, [None] * len(rows), feature=List(Image(mode="L")))
    columns = [config.image_column, config.label_column, args.bias_column, LABELS, LABEL_WEIGHTS, PROVENANCE]
    return rows.select_columns(columns).add_column("source", [SOURCE.str2int(source)] * len(rows), feature=SOURCE)


def on_both(rows: Dataset, bias_column: str) -> Dataset:
    """Cut-outs of digits, labelled even or odd, once for either photograph; which digit is in column `digit`."""
    parity = [digit % 2 for digit in rows["label"]]
    rows = rows.rename_column("label", "digit").select_columns(["image", "mask", "digit"])
    rows = rows.add_column("label", parity, feature=ClassLabel(names=["even", "odd"]))
    photo = ClassLabel(names=[name.partition(".")[0] for name in PHOTOGRAPHS])
    return concatenate_datasets(
        [rows.add_column(bias_column, [value] * len(rows), feature=photo) for value in range(photo.num_classes)]
    )


def stand_in(counts: np.ndarray, bias_column: str, seed: int) -> Dataset:
    """The stand-in generator: asked for `counts` (labels, photographs) images, it pastes training digits."""
    rows = on_both(digits("train"), bias_column)
    group = counts.shape[1] * np.asarray(rows["label"]) + np.asarray(rows[bias_column])
    rng = np.random.default_rng([seed, 1])
    chosen = [rng.choice(np.flatnonzero(group == g), count) for g, count in enumerate(counts.flat)]
    return paste(rows.select(np.concatenate(chosen)), bias_column, seed + 1_000_000, scale=(0.5, 0.8), feather=1.0)


def paste(
    rows: Dataset, bias_column: str, seed: int, scale: tuple[float, float] = (0.6, 0.9), feather: float = 0.5
) -> Dataset:
    """Each cut-out on its photograph, with the pasted alpha as provenance; rows are ordered by photograph."""
    scenes, on = photographs(PHOTOGRAPHS), np.asarray(rows[bias_column])
    pasted = []
    for value in np.unique(on):
        method = Composite(
            backgrounds=scenes.select(np.flatnonzero(np.asarray(scenes["label"]) == value)),
            mask_column="mask",
            size=SIZE,
            scale=scale,
            flip=0.0,  # a mirrored digit is no digit
            feather=feather,
            seed=seed + 1_000 * int(value),
        )
        pasted.append(method.map(rows.select(np.flatnonzero(on == value))).remove_columns("mask"))
    return concatenate_datasets(pasted)
