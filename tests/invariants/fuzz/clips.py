"""Cases of clips: frames of one object that moves, with masks or boxes a frame; and their way through every step."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List, Value

from hf_pgg.data.frame_sampling import FrameSampler
from hf_pgg.data.images import encode_mask, encode_png
from hf_pgg.synthesis import ActorComposite, TileMix, VideoMix
from tests.invariants.fuzz import steps
from tests.invariants.fuzz.boxes import FORMATS, NO_BOX, as_format, covered, draw_corners
from tests.invariants.fuzz.masks import MASKS, NO_MEANING
from tests.invariants.fuzz.oracle import check_mix, decoded
from tests.invariants.fuzz.rows import (
    LABEL,
    POOL_LABELS,
    Case,
    Columns,
    Truth,
    labelled,
    numbered,
    simple_truth,
    spoil_mask,
)
from tests.invariants.fuzz.scenes import NO_IMAGES, draw_target, image_kinds
from tests.invariants.fuzz.verdicts import Fault, Finding, any_colour, plain, stored, wrong

FRAMES = 4  # of the model's input


def moving(rng: np.random.Generator, size: tuple[int, int], length: int) -> np.ndarray:
    """Targets (T, H, W) bool of an object that moves by a pixel a frame; it may leave the image, but not at first."""
    target = draw_target(rng, size)
    frames = []
    for t in range(length):
        shifted = np.zeros_like(target)
        shifted[:, min(t, size[1]) :] = target[:, : size[1] - t]
        frames.append(shifted & (t == 0 or rng.random() > 0.15))
    return np.stack(frames)


def painted(rng: np.random.Generator, targets: np.ndarray, folder: Path) -> tuple[list[Any], np.ndarray]:
    """The frames of a clip in one kind and two colours, as they are stored and as they are shown."""
    kinds, seed = image_kinds(folder), int(rng.integers(2**32))
    kind = str(rng.choice([name for name in kinds if "of uint16" not in name and "of floats" not in name]))
    drawn = [kinds[kind](np.random.default_rng(seed), target) for target in targets]
    return [stored for stored, _ in drawn], np.stack([shown for _, shown in drawn])


def masked_clips(rng: np.random.Generator, folder: Path) -> Case:
    """Clips with masks of one convention: stacked in one image, or one a frame."""
    kind = str(rng.choice([name for name in MASKS if isinstance(MASKS[name].feature, Image) and "turned" not in name]))
    convention, stacked, count = MASKS[kind], bool(rng.random() < 0.5), int(rng.integers(3, 6))
    columns, truths = Columns(), []
    faulty = int(rng.integers(count)) if rng.random() < 0.3 else None
    for i in range(count):
        size = int(rng.integers(12, 17)), int(rng.integers(18, 25))
        targets = moving(rng, size, int(rng.integers(2, 6)))
        frames, shown = painted(rng, targets, folder)
        if stacked:
            value, means = convention.encode(targets.reshape(-1, size[1]), rng)
            means = means.reshape(targets.shape)
        else:
            one, seed = [], int(rng.integers(2**32))
            for target in targets:
                one.append(convention.encode(target, np.random.default_rng(seed)))
            value, means = [mask for mask, _ in one], np.stack([mask for _, mask in one])
        if rng.random() < 0.12 and i != faulty:
            value, means = None, None  # type: ignore[assignment]
        columns.append(video=frames, mask=value)
        truths.append(simple_truth(shown, targets, int(rng.integers(3)), means, convention.tolerance))
    features: dict[str, Any] = {"video": List(Image(decode=bool(rng.random() < 0.5)))}
    features["mask"] = Image() if stacked else List(Image())
    options, fault = labelled(rng, columns, [truth.labels[0] for truth in truths], features)
    fault = fault or numbered(rng, columns, count, features, options)
    if fault is None and faulty is not None:
        fault = spoil_clip_mask(rng, columns, truths, faulty, kind, stacked)
    elif fault is None and rng.random() < 0.12:
        fault = spoil_clip(rng, columns, truths)
    settings = {"mask_column": "mask", **convention.options}
    return _case(f"clips' masks: {kind}", columns, features, truths, settings, fault, options, settings)


def _case(
    name: str,
    columns: Columns,
    features: dict[str, Any],
    truths: list[Truth],
    settings: dict[str, Any],
    fault: Fault | None,
    options: dict[str, Any],
    masks: dict[str, Any],
) -> Case:
    if "group" not in columns:
        columns["group"], features["group"] = [0] * len(truths), Value("int64")
    if any(isinstance(frame, np.ndarray) for frames in columns["video"] for frame in frames or ()):
        columns["video"] = [
            frames and [Image().encode_example(frame) for frame in frames] for frames in columns["video"]
        ]
    rows = Dataset.from_dict(dict(columns), features=Features(features))
    label = {key: value for key, value in options.items() if key == "label_column"}
    title = name + (f", {fault.what}" if fault else "")
    provenance = {**settings, "video_column": "video", **label}
    return Case(title, rows, truths, provenance, fault, options, masks, ("group",), is_clip=True)


def spoil_clip(rng: np.random.Generator, columns: Columns, truths: list[Truth]) -> Fault:
    """A clip without frames, of changing size, or with a frame that is no image."""
    bad = int(rng.integers(len(truths)))
    kind, frames = str(rng.choice(["none", "empty", "changing size", *NO_IMAGES])), columns["video"][bad]
    grey = np.full(truths[bad].shown.shape[1:3], 190, np.uint8)
    if kind in ("none", "empty"):
        columns["video"][bad] = None if kind == "none" else []
    else:
        spoiled = encode_png(grey[1:]) if kind == "changing size" else NO_IMAGES[kind](grey)
        columns["video"][bad] = [*frames[:-1], spoiled]
    return Fault(frozenset({bad}), frozenset({"video"}), f"clip: {kind}")


def spoil_clip_mask(
    rng: np.random.Generator, columns: Columns, truths: list[Truth], bad: int, kind: str, stacked: bool
) -> Fault:
    """The masks of too many frames, or a faulty one."""
    value = columns["mask"][bad]
    what = str(rng.choice(["count", "unclear"]))
    if what == "count" and stacked:
        columns["mask"][bad] = encode_mask(
            np.ones((truths[bad].shown.shape[1] * 2 + 1, truths[bad].shown.shape[2]), bool)
        )
    elif what == "count":
        columns["mask"][bad] = value[:-1] if rng.random() < 0.5 else [*value, value[0]]
    elif stacked:
        tall = Truth(truths[bad].shown, [0], [1.0], [np.concatenate(truths[bad].targets[0])], [], [])  # type: ignore[index,arg-type]
        return spoil_mask(rng, columns, {bad: tall}, bad, kind)  # type: ignore[arg-type]
    else:
        first = {0: Truth(truths[bad].shown, [0], [1.0], [truths[bad].targets[0][0]], [], [])}  # type: ignore[index]
        frames = Columns(mask=list(value))
        fault = spoil_mask(rng, frames, first, 0, kind)  # type: ignore[arg-type]
        everywhere = fault.what.removeprefix("mask: ") in ("empty", *NO_MEANING)  # the frames are read together
        columns["mask"][bad] = [frames["mask"][0]] * len(value) if everywhere else frames["mask"]
        what = fault.what
    return Fault(frozenset({bad}), frozenset({"mask"}), f"clip's masks: {what}")


def boxed_clips(rng: np.random.Generator, folder: Path) -> Case:
    """Clips with a box a frame, of one stated format."""
    name, count = str(rng.choice(FORMATS)), int(rng.integers(3, 6))
    columns, truths = Columns(), []
    faulty, fault = (int(rng.integers(count)) if rng.random() < 0.4 else None), None
    for i in range(count):
        size, length = (int(rng.integers(12, 17)), int(rng.integers(18, 25))), int(rng.integers(2, 6))
        corners = [draw_corners(rng, draw_target(rng, size)) for _ in range(length)]
        masks = np.stack([covered([box], size) for box in corners])
        frames, shown = painted(rng, masks > 0, folder)
        value: Any = [as_format(box, name, size) for box in corners]
        if i == faulty:
            what = str(rng.choice(["count", "a frame without", "one too many", *NO_BOX]))
            one = NO_BOX[what](corners[-1], name, size)[-1] if what in NO_BOX else None
            value = {"count": value[:-1], "one too many": [*value, value[0]]}.get(what, [*value[:-1], one])
            fault = Fault(frozenset({i}), frozenset({"bbox"}), f"clip's boxes: {what}")
        unknown = rng.random() < 0.15 and i != faulty
        value = (None if rng.random() < 0.5 else []) if unknown else value
        columns.append(video=frames, bbox=value)
        truths.append(simple_truth(shown, masks > 0, int(rng.integers(3)), None if unknown else masks, 1 / 255))
    features: dict[str, Any] = {"video": List(Image(decode=False)), "bbox": List(List(Value("float64")))}
    columns["label"], features["label"] = [truth.labels[0] for truth in truths], LABEL
    if fault is None and rng.random() < 0.1:
        fault = spoil_clip(rng, columns, truths)
    settings = {"box_column": "bbox", "box_format": name}
    return _case(f"clips' boxes: {name}", columns, features, truths, settings, fault, {}, {})


def clip_pool(rng: np.random.Generator) -> tuple[Dataset, list[Truth]]:
    """Partners in pure colours, as of images."""
    pure = np.array([[255, 0, 255], [0, 255, 255], [255, 255, 0], [0, 255, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    columns, truths = Columns(), []
    for i, label in enumerate(POOL_LABELS):
        targets = moving(rng, (int(rng.integers(12, 30)), int(rng.integers(12, 30))), int(rng.integers(3, 6)))
        shown = pure[2 * i : 2 * i + 2][targets.astype(int)]
        frames = [encode_png(frame) for frame in shown]
        columns.append(video=frames, labels=[label], label_weights=[1.0], provenance=[encode_mask(targets)])
        truths.append(simple_truth(shown, targets, label, targets.astype(np.float32), 1 / 255))
    features = Features(
        video=List(Image(decode=False)),
        labels=List(LABEL),
        label_weights=List(Value("float32")),
        provenance=List(Image(mode="L")),
    )
    return Dataset.from_dict(dict(columns), features=features), truths


def sampled(truth: Truth, count: int) -> Truth:
    """The truth of the frames that stand in the middles of equal segments."""
    indices = [int((i + 0.5) * len(truth.shown) / count) for i in range(count)]
    targets = truth.targets and [None if mask is None else mask[indices] for mask in truth.targets]
    values = {**vars(truth), "shown": truth.shown[indices], "targets": targets}
    return Truth(**values)


def clip_mix(case: Case, known: Dataset, partners: list[Truth], method: Any) -> Dataset | None:
    """VideoMix and TileMix: each source's pixels and masks, frame by frame."""
    made = steps.mapped(case, method, known)
    if made is None or case.fault is not None:
        return made
    for row, truth in zip(plain(made), case.truths, strict=True):
        clip, own = np.stack([stored(frame) for frame in row["video"]]), sampled(truth, method.sampler.num_frames)
        if clip.shape != own.shown.shape:
            raise wrong(f"the mix is of shape {clip.shape}, its row's clip of {own.shown.shape}")
        sources = [partners[label - 3] if label >= 3 else own for label in row["labels"]]
        check_mix(row, clip, sources, type(method).__name__)
    return made


def actor_composite(case: Case, known: Dataset, pool: Dataset, partners: list[Truth], seed: int) -> Dataset | None:
    usable = [i for i, truth in enumerate(case.truths) if truth.targets is not None]
    if not usable or (case.fault is not None and (len(usable) < len(known) or "group" in case.fault.columns)):
        return None
    rows = known if len(usable) == len(known) else known.select(usable)
    settings = dict(case.masks) if seed % 2 else {}
    method = ActorComposite(backgrounds=pool, sampler=FrameSampler(5), seed=seed, **settings, **case.options)
    made = steps.mapped(case, method, rows)
    if made is None or case.fault is not None:
        return made
    scene = [colour for partner in partners for colour in partner.colours]
    for row, truth in zip(plain(made), [sampled(case.truths[i], 5) for i in usable], strict=True):
        clip, (mask,) = np.stack([stored(frame) for frame in row["video"]]), decoded(row, 5) or [None]
        if row["labels"] != truth.labels or mask is None or mask.shape != truth.shown.shape[:3]:
            raise wrong(f"a composite with labels {row['labels']} (right: {truth.labels}) and no mask of its size")
        limit = 0.75 if truth.tolerance > 0.01 else 0.4
        ours, theirs = any_colour(clip, truth.inside[0]), any_colour(clip, scene)
        if (ours.any() and mask[ours].min() < 1 - limit) or (theirs.any() and mask[theirs].max() > limit):
            raise wrong(
                f"masks of the actor: {mask[ours].min(initial=1):.2f} on him, {mask[theirs].max(initial=0):.2f} off"
            )
        if abs(mask.sum() - truth.targets[0].sum()) > 0.3 * mask.size + 2:  # type: ignore[index]
            raise wrong(f"{mask.sum():.0f} pixels of the actor, of {truth.targets[0].sum():.0f}")  # type: ignore[index]
    return made


def clip_methods(case: Case, pool: Dataset, partners: list[Truth], rng: np.random.Generator) -> dict[str, Any]:
    seed = int(rng.integers(1000))
    storage = "jpeg" if rng.random() < 0.15 else "png"
    options = {"source": pool, "seed": seed, "sampler": FrameSampler(int(rng.integers(6, 9))), **case.options}
    mixed = partial(clip_mix, case, partners=partners)
    modes = ("spatial", "temporal", "spatiotemporal")
    ablate = partial(steps.ablate, case, seed=seed, video_column="video")
    return {
        **{mode: partial(mixed, method=VideoMix(mode=mode, storage=storage, **options)) for mode in modes},  # type: ignore[arg-type]
        "tiles": partial(mixed, method=TileMix(grid=((1, 2), (2, 1), (2, 2))[seed % 3], **options)),
        "actors": partial(actor_composite, case, pool=pool, partners=partners, seed=seed),
        "misplaced": partial(ablate, kind="random"),
        "dilated": partial(ablate, kind="dilate"),
    }


def check_clip_case(rng: np.random.Generator, folder: Path) -> int:
    """Draws a case of clips, sends it through every step, and returns its number of rows."""
    case = (masked_clips, boxed_clips)[int(rng.random() < 0.35)](rng, folder)
    pool, partners = clip_pool(rng)
    notes = [case.name]
    try:
        known = steps.with_provenance(case)
        if known is None:
            return len(case.truths)
        methods = clip_methods(case, pool, partners, rng)
        name = str(rng.choice(list(methods)))
        notes.append(name)
        made = methods[name](known)
        options = {"video_column": "video", "sampler": FrameSampler(FRAMES)}
        if made is not None:
            truths = None
            if case.fault is None and name not in ("misplaced", "dilated"):
                truths = [sampled(steps.truth_of_made(row, is_clip=True), FRAMES) for row in plain(made)]
                if rng.random() < 0.3:
                    made = steps.store(made, folder, as_parquet=rng.random() < 0.5)
            steps.collate(case, made, truths, **options)
        notes[1:] = ["collator"]
        steps.collate(
            case, known, [sampled(truth, FRAMES) for truth in case.truths] if not case.fault else None, **options
        )
    except Finding as finding:
        finding.__notes__ = notes
        raise
    return len(case.truths)
