"""Every way of a row through the library: provenance, synthesis, storage, collator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk
from transformers import ViTImageProcessor

from hf_pgg import PGGCollator, add_provenance
from hf_pgg.synthesis import BackgroundExchange, Composite, Edit, MaskAblation, PuzzleMix
from tests.invariants.fuzz.oracle import SIDE, check_batch, check_mix, check_row, decoded
from tests.invariants.fuzz.rows import Case, Truth
from tests.invariants.fuzz.verdicts import any_colour, is_colour, outcome, plain, stored, wrong

QUIET = {"keep_in_memory": True, "load_from_cache_file": False}
PROCESSOR = ViTImageProcessor(size={"height": SIDE, "width": SIDE})


def brightness(image: np.ndarray, label: int) -> np.ndarray:
    """A saliency for PuzzleMix."""
    return image.mean(2) + label


def lit_corner(image: np.ndarray) -> np.ndarray:
    """An editor: its upper half becomes white, in which no row or pool is painted."""
    image[: (len(image) + 1) // 2] = 255
    return image


def lit_corner_said(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An editor that knows what it left alone, and returns floats."""
    kept = np.ones(image.shape[:2])
    kept[: (len(image) + 1) // 2] = 0
    return lit_corner(image) / 255.0, kept


def with_provenance(case: Case) -> Dataset | None:
    """The rows with provenance; None where a fault was refused, as it should be. Their truths learn their groups."""
    for truth, group in zip(case.truths, case.rows["group"] if "group" in case.rows.column_names else (), strict=False):
        truth.group = group
    if case.provenance is None:
        return case.rows
    run = partial(add_provenance, case.rows, **case.provenance, **QUIET)
    known = outcome(run, case.fault)
    if known is not None and case.fault is None:
        for row, truth in zip(plain(known), case.truths, strict=True):
            check_row(row, truth, len(truth.shown) if case.is_clip else None)
    return known


def mapped(case: Case, method: Any, rows: Dataset) -> Dataset | None:
    """What a method makes of the rows; None where a fault was refused."""
    return outcome(lambda: method.map(rows, **QUIET), case.fault, case.row_name)


def mix(case: Case, known: Dataset, pool: Dataset, partners: list[Truth], method: Any) -> Dataset | None:
    """CutMix and its kin."""
    made = mapped(case, method, known)
    if made is None or case.fault is not None:
        return made
    for row, truth in zip(plain(made), case.truths, strict=True):
        partner = partners[row["labels"][-1] - 3]
        image = stored(row["image"])
        if type(method) is not PuzzleMix and image.shape != truth.shown.shape:
            raise wrong(f"the mix is of shape {image.shape}, its row's image of {truth.shown.shape}")
        check_mix(row, image, [truth, partner], type(method).__name__)
    return made


def exchange(case: Case, known: Dataset, pool: Dataset, partners: list[Truth], seed: int) -> Dataset | None:
    made = mapped(case, BackgroundExchange(source=pool, seed=seed, **case.options), known)
    if made is None or case.fault is not None:
        return made
    for row, truth in zip(plain(made), case.truths, strict=True):
        check_row(row, truth)
        image, targets = stored(row["image"]), truth.targets
        whole = targets is not None and all(mask is not None for mask in targets)
        target = np.clip(sum(targets), 0, 1) if whole else np.ones(image.shape[:2])  # type: ignore[arg-type]
        kept = target > 1 - 1 / 512
        if np.abs(image[kept].astype(int) - truth.shown[kept].astype(int)).max(initial=0) > 3 + 255 * truth.tolerance:
            raise wrong("the target's own pixels changed")
        gone = target < 0.02
        if any_colour(image[gone][None], truth.colours).any():
            raise wrong("the row's own background is left outside its target")
    return made


def composite(case: Case, known: Dataset, pool: Dataset, partners: list[Truth], seed: int) -> Dataset | None:
    """The object of each row on a pool's image; a row whose object is not known is refused."""
    whole = [truth.targets is not None and truth.targets[0] is not None for truth in case.truths]
    single = [len(truth.labels) == 1 for truth in case.truths]
    usable = [i for i in range(len(known)) if whole[i] and single[i]]
    if not usable or (
        case.fault is not None and not (all(whole) and all(single) and "group" not in case.fault.columns)
    ):
        return None
    rows = known if len(usable) == len(known) else known.select(usable)
    settings = dict(case.masks) if seed % 2 else {}
    size, scale = int(seed % 20) + 12, (0.4, 0.9)
    made = mapped(
        case, Composite(backgrounds=pool, size=size, scale=scale, seed=seed, **settings, **case.options), rows
    )
    if made is None or case.fault is not None:
        return made
    scene = [colour for partner in partners for colour in partner.colours]
    for row, truth in zip(plain(made), [case.truths[i] for i in usable], strict=True):
        image, (mask,) = stored(row["image"]), decoded(row) or [None]
        if row["labels"] != truth.labels or mask is None or mask.shape != (size, size) or mask.max() == 0:
            raise wrong(f"a composite with labels {row['labels']} (right: {truth.labels}) and an empty or wrong mask")
        limit = 0.75 if truth.tolerance > 0.1 or _is_soft(truth) else 0.35
        ours, theirs = any_colour(image, truth.inside[0]), any_colour(image, scene)
        # a blend at a border may happen to be of a pure colour: single pixels prove nothing
        for where, bad in ((ours, ours & (mask < 1 - limit)), (theirs, theirs & (mask > limit))):
            if bad.sum() > max(2, 0.05 * where.sum()):
                raise wrong(f"alpha is wrong at {bad.sum()} of {where.sum()} pixels of the object or the background")
    return made


def _is_soft(truth: Truth) -> bool:
    return any(mask is not None and ((mask > 0.02) & (mask < 0.98)).any() for mask in truth.targets or ())


def edit(case: Case, known: Dataset, editor: Callable[..., Any], seed: int) -> Dataset | None:
    made = mapped(case, Edit(editor=editor, seed=seed, **case.options), known)
    if made is None or case.fault is not None:
        return made
    for row, truth in zip(plain(made), case.truths, strict=True):
        image = stored(row["image"])
        edited = is_colour(image, np.array([255] * 3), 0)
        changed = edited & (np.abs(truth.shown.astype(int) - 255).mean(2) >= 4)
        everything = [np.ones(image.shape[:2])] if len(truth.labels) == 1 else [None] * len(truth.labels)
        found = decoded(row) or [None] * len(truth.labels)
        for k, (mask, before) in enumerate(zip(found, truth.targets or everything, strict=True)):
            if (mask is None) != (before is None):
                raise wrong(f"of source {k} more or less is known after an edit")
            if mask is None or before is None:
                continue
            if (mask[changed] > 0.02).mean() > 0.01:
                raise wrong(f"{(mask[changed] > 0.02).mean():.0%} of the edited pixels count as untouched (source {k})")
            compared = np.abs(mask - before)[~edited]
            if compared.size and compared.max() > truth.tolerance + 0.01:
                raise wrong(f"a mask moved by {compared.max():.2f} where nothing was edited (source {k})")
    return made


def ablate(case: Case, known: Dataset, kind: str, seed: int, **options: Any) -> Dataset | None:
    if "provenance" not in known.column_names:
        return None
    settings = {name: value for name, value in case.options.items() if name == "row_id_column"}
    made = mapped(case, MaskAblation(kind=kind, fraction=0.3, seed=seed, **settings, **options), known)  # type: ignore[arg-type]
    if made is None or case.fault is not None:
        return made
    for row, truth in zip(plain(made), case.truths, strict=True):
        length = len(truth.shown) if case.is_clip else None
        nothing = [None] * len(truth.labels)
        for mask, before in zip(decoded(row, length) or nothing, truth.targets or nothing, strict=True):
            if (mask is None) != (before is None):
                raise wrong(f"'{kind}' made something known, or unknown")
            if mask is None or before is None:
                continue
            solid = (before >= 0.5).reshape(length or 1, -1).sum(1)
            area = (mask >= 0.5).reshape(length or 1, -1).sum(1)
            factor = {"whole": 0.0, "random": 1.0, "dilate": 1.3, "erode": 0.7}[kind]
            wanted = np.minimum(np.round(solid * factor), before[0].size if length else before.size)
            slack = 0.5 if truth.tolerance < 0.1 else 0.1 * before.size
            if (np.abs(area - wanted) > slack).any():
                raise wrong(f"'{kind}' gave masks of {area.tolist()} pixels, not {wanted.tolist()}")
    return made


def store(made: Dataset, folder: Path, as_parquet: bool) -> Dataset:
    """The rows as they come back from a disk; they are the same."""
    if as_parquet:
        made.to_parquet(folder / "rows.parquet")
        back = Dataset.from_parquet(str(folder / "rows.parquet"), cache_dir=str(folder), keep_in_memory=True)
    else:
        made.save_to_disk(folder / "rows")
        back = load_from_disk(folder / "rows", keep_in_memory=True)
    if back.features != made.features:
        raise wrong(f"features come back as {back.features}")
    for before, after in zip(plain(made), plain(back), strict=True):
        for name in set(before) & {"labels", "label_weights", "group"}:
            if before[name] != after[name]:
                raise wrong(f"'{name}' was {before[name]} and comes back as {after[name]}")
        pairs = zip(decoded(before) or [], decoded(after) or [], strict=True) if "provenance" in before else ()
        for one, other in pairs:
            if (one is None) != (other is None) or (one is not None and not np.array_equal(one, other)):  # type: ignore[arg-type]
                raise wrong("a mask comes back as another one")
    return back


def collate(case: Case, rows: Dataset, truths: list[Truth] | None, **options: Any) -> Any:
    """A batch of all rows, one by one in the same shape; a fault that came so far is refused here at the latest."""
    names = {key: value for key, value in case.options.items() if key == "label_column"}
    collator = PGGCollator(PROCESSOR, extra_columns=case.groups, **names, **options)
    batch = outcome(lambda: collator(plain(rows)), case.fault)
    if batch is not None and case.fault is not None:
        raise wrong(f"{case.fault.what} (rows {sorted(case.fault.rows or ())}) came through to a batch")
    if batch is not None and truths is not None:
        check_batch(batch, truths, bool(case.groups))
    return batch


def truth_of_made(row: Any, image: np.ndarray | None = None, is_clip: bool = False) -> Truth:
    """What a made row says of itself, for the collator; `image` where the method leaves it as it was."""
    if image is None:
        image = np.stack([stored(frame) for frame in row["video"]]) if is_clip else stored(row["image"])
    targets = decoded(row, len(image) if is_clip else None)
    return Truth(image, list(row["labels"]), list(row["label_weights"]), targets, [], [], group=row.get("group") or 0)
