"""Throughput of synthesis and of the input pipeline, against floors: `python -m benchmarks.cost.synthesis`.

One process, one thread. A method's floor decodes as many images and encodes as many images and masks through the
same `datasets.map`, and does nothing between. The collator is compared with the plain pipeline (open, convert, the
image processor) on the same rows without masks, and tensor-level mixing of torchvision and timm is given for scale: it
keeps no provenance.
"""

from __future__ import annotations

import io
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import torchvision
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from skimage import data as photographs
from timm.data import Mixup
from torchvision.transforms import v2
from transformers import ViTImageProcessor

from hf_pgg import BackgroundExchange, Composite, CutMix, Edit, PGGCollator, ResizeMix, add_provenance
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.data.images import encode_mask, encode_png, to_rgb
from hf_pgg.data.provenance import provenance_features


@dataclass
class Arguments:
    results: str = field(default="benchmarks/results/data.json", metadata={"help": "Where the figures are stored."})
    rows: int = field(default=96, metadata={"help": "Images."})
    size: int = field(default=224, metadata={"help": "Their side, in pixels."})
    repetitions: int = field(default=5, metadata={"help": "Interleaved; their median counts."})


def images(count: int, size: int) -> Dataset:
    """Random crops of scikit-image's photographs as JPEG, each with the mask of an ellipse and one of ten labels."""
    rng = np.random.default_rng(0)
    sources = [photographs.astronaut(), photographs.chelsea(), photographs.coffee(), photographs.rocket()]
    grid = np.hypot(*np.meshgrid(np.linspace(-1.6, 1.6, size), np.linspace(-1.6, 1.6, size)))
    rows: dict[str, list[Any]] = {"image": [], "mask": [], "label": []}
    for i in range(count):
        source = sources[i % len(sources)]
        top, left = (int(rng.integers(side - size)) for side in source.shape[:2])
        buffer = io.BytesIO()
        PILImage.fromarray(source[top : top + size, left : left + size]).save(buffer, format="JPEG", quality=90)
        rows["image"].append({"bytes": buffer.getvalue(), "path": None})
        rows["mask"].append(encode_mask(grid < 1))
        rows["label"].append(i % 10)
    features = Features({"image": Image(), "mask": Image(), "label": ClassLabel(num_classes=10)})
    return Dataset.from_dict(rows, features=features)


@dataclass(frozen=True)
class Floor:
    """Decodes a row's images and `partners` of the pool, encodes one image and `masks` masks."""

    pool: Dataset
    partners: int
    masks: int
    version: int = 1

    def __call__(self, batch: Any, indices: list[int]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {"image": [], "labels": [], "label_weights": [], "provenance": []}
        columns = {name: batch[name] for name in batch}
        for i, index in enumerate(indices):
            image = to_rgb(columns["image"][i])
            for partner in range(self.partners):
                to_rgb(self.pool[(index + partner + 1) % len(self.pool)]["image"])
            mask = np.zeros(image.shape[:2], np.uint8)
            mask[20:90, 30:120] = 255
            out["image"].append(encode_png(image))
            out["provenance"].append([encode_mask(mask)] * 1 + [encode_mask(mask) for _ in range(self.masks - 1)])
            out["labels"].append([0] * self.masks)
            out["label_weights"].append([1.0 / self.masks] * self.masks)
        return out


def median_seconds(work: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for repetition in range(repetitions + 1):
        for name, call in work.items():
            started = time.perf_counter()
            call()
            if repetition:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    (arguments,) = parse_options({"options": Arguments}, description=__doc__)
    datasets.disable_progress_bars()
    datasets.disable_caching()
    torch.set_num_threads(1)
    bare = images(arguments.rows, arguments.size)
    known = add_provenance(bare, mask_column="mask").remove_columns(["mask"])
    plain = bare.remove_columns(["mask"])
    size = arguments.size
    methods = {
        "CutMix": (CutMix(source=plain), plain, 1, 2),
        "ResizeMix": (ResizeMix(source=plain), plain, 1, 2),
        "Composite": (Composite(backgrounds=plain, mask_column="mask", size=size), bare, 1, 1),
        "Edit": (Edit(editor=lambda image: np.roll(image, 8, 0)), plain, 0, 1),
        "BackgroundExchange": (BackgroundExchange(source=known), known, 1, 1),
    }
    work: dict[str, Callable[[], Any]] = {}
    for name, (method, rows, partners, masks) in methods.items():
        features = Features({**rows.features, **provenance_features(rows.features["label"])})
        floor = Floor(rows, partners, masks)
        work[name] = lambda m=method, r=rows: m.map(r)
        work[f"{name}, floor"] = lambda f=floor, r=rows, s=features: r.map(
            f, batched=True, with_indices=True, batch_size=32, features=s
        )
    processor = ViTImageProcessor(size={"height": size, "width": size})
    collator = PGGCollator(processor)
    batch = [known.cast_column("image", Image(decode=False))[i] for i in range(arguments.rows)]
    tensors = torch.rand(arguments.rows, 3, size, size)
    labels = torch.arange(arguments.rows) % 10
    work |= {
        "collator": lambda: collator(batch),
        "plain pipeline": lambda: processor(
            [PILImage.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in batch], return_tensors="pt"
        ),
        "torchvision v2.CutMix on tensors": lambda: v2.CutMix(num_classes=10)(tensors, labels),
        "timm Mixup (CutMix) on tensors": lambda: Mixup(mixup_alpha=0, cutmix_alpha=1.0, num_classes=10)(
            tensors.clone(), labels
        ),
    }
    seconds = median_seconds(work, arguments.repetitions)
    record = {
        "rows_per_second": {name: arguments.rows / value for name, value in seconds.items()},
        "over_the_floor": {name: seconds[name] / seconds[f"{name}, floor"] for name in methods},
        "collator_over_plain": seconds["collator"] / seconds["plain pipeline"],
        "rows": arguments.rows,
        "size": size,
        "repetitions": arguments.repetitions,
        "device": f"cpu ({platform.machine()}), one process",
        "versions": {package.__name__: package.__version__ for package in (torch, torchvision, datasets)},
    }
    path = Path(arguments.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    for name, value in record["rows_per_second"].items():
        over = f"  {record['over_the_floor'][name]:.2f} x its floor" if name in methods else ""
        print(f"{name:36} {value:9.0f} rows/s{over}")
    print(f"collator over the plain pipeline: {record['collator_over_plain']:.2f}")


if __name__ == "__main__":
    run_recipe(main)
