"""Cost and precision of guidance, side by side in one run, on whatever device there is.

    python -m benchmarks.cost.run                     # small inputs on a CPU, 224 px on a GPU
    python -m benchmarks.cost.run --data DATA         # also the pretrained CNN and ViT of the pets benchmark
    python -m benchmarks.cost.run --data DATA --only efficientnet-lite0-imagenet1k --batch_size 32 --results \
        benchmarks/results/engines_batch32.json

Speed: time of a training step (forward, backward; the optimizer's step is the same for all) over that of a plain step,
as the median of repetitions that interleave the variants, and the peak of allocated memory over the plain one's.
Precision: cosine and norm ratio of the guidance loss's parameter gradient to that of exact mode in float64.
"""

from __future__ import annotations

import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from benchmarks.pets import data as pets_on_scenes
from benchmarks.pets.run import CHECKPOINTS
from hf_pgg import PGGCollator
from hf_pgg.cli.options import parse_options, run_recipe
from hf_pgg.guidance.engines import exact_guidance
from hf_pgg.guidance.forms import share
from hf_pgg.guidance.forward import GuidanceSettings, LoopState, guided_forward
from hf_pgg.guidance.modes import running_statistics, second_derivatives

CLASSES = 10
FIGURES = ("speed", "precision")  # of a record; the rest are its conditions
STEPS = (3e-4, 1e-3, 3e-3)


@dataclass
class Arguments:
    results: str = field(default="benchmarks/results/engines.json", metadata={"help": "Where the figures are stored."})
    data: str | None = field(default=None, metadata={"help": "Folder of the pretrained checkpoints."})
    repetitions: int = field(default=7, metadata={"help": "Of every step; their median counts."})
    batch_size: int | None = field(default=None, metadata={"help": "Default: 8 on a CPU, 64 on a GPU."})
    only: str | None = field(default=None, metadata={"help": "Measure this backbone alone."})


class TimmModel(nn.Module):
    """A timm model with the call of a `transformers` one."""

    def __init__(self, name: str):
        super().__init__()
        self.net = timm.create_model(name, num_classes=CLASSES)

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return transformers.modeling_outputs.ImageClassifierOutput(logits=self.net(pixel_values))


def backbones(size: int) -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    """Name -> (maker, shape of one input)."""
    image, clip = (3, size, size), (8, 3, size, size)
    small = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "image_size": size}
    return {
        "ViT-S/16": (lambda: ViTForImageClassification(ViTConfig(num_labels=CLASSES, **small)), image),
        "ConvNeXt-T": (lambda: ConvNextForImageClassification(ConvNextConfig(num_labels=CLASSES)), image),
        "ResNet-50": (lambda: TimmModel("resnet50"), image),
        "VideoMAE-S": (
            lambda: VideoMAEForVideoClassification(VideoMAEConfig(num_labels=CLASSES, num_frames=8, **small)),
            clip,
        ),
    }


@dataclass
class Batch:
    pixels: torch.Tensor
    labels: torch.Tensor
    provenance: torch.Tensor

    @classmethod
    def drawn(cls, shape: tuple[int, ...], rows: int, labels: int, device: torch.device) -> Batch:
        """Noise with a box; two labels share the image as CutMix would."""
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(rows, *shape, generator=generator)
        box = torch.zeros(rows, *shape[:-3], *shape[-2:])
        box[..., : shape[-2] // 2, : shape[-1] // 2] = 1
        first = torch.randint(CLASSES, (rows,), generator=generator)
        pair = torch.stack([first, (first + 1) % CLASSES], 1)[:, :labels]
        masks = torch.stack([box, 1 - box], 1)[:, :labels]
        return cls(pixels.to(device), pair.to(device), masks.to(device))

    @property
    def guided(self) -> torch.Tensor:
        return torch.ones(len(self.labels), dtype=torch.bool, device=self.labels.device)


def plain_step(model: nn.Module, batch: Batch) -> None:
    F.cross_entropy(model(pixel_values=batch.pixels).logits.float(), batch.labels[:, 0]).backward()


def naive_step(model: nn.Module, batch: Batch) -> None:
    """As the paper writes it: ||(1 - M) grad f_A + M grad f_B||^2, both gradients with a graph of their own."""
    pixels = batch.pixels.clone().requires_grad_()
    with running_statistics(model), second_derivatives():
        logits = model(pixel_values=pixels).logits
    total = torch.zeros((), device=pixels.device)
    for k in range(batch.labels.shape[1]):
        chosen = logits.gather(1, batch.labels[:, k : k + 1]).sum()
        gradient = torch.autograd.grad(chosen, pixels, create_graph=True)[0]
        total = total + (1 - batch.provenance[:, k].unsqueeze(-3)) * gradient
    loss = F.cross_entropy(logits.float(), batch.labels[:, 0]) + (total**2).flatten(1).sum(1).mean()
    loss.backward()


def guided_step(settings: GuidanceSettings) -> Callable[[nn.Module, Batch], None]:
    generator = torch.Generator().manual_seed(0)

    def step(model: nn.Module, batch: Batch) -> None:
        logits, guidance = guided_forward(
            model, model, {"pixel_values": batch.pixels}, batch.labels, batch.provenance, batch.guided, settings,
            LoopState(generator),
        )  # fmt: skip
        (F.cross_entropy(logits.float(), batch.labels[:, 0]) + 10 * guidance.value.mean()).backward()

    return step


ONE_SIDED = {"step": 1e-3, "central": False}
VARIANTS: dict[str, tuple[int, Callable[[nn.Module, Batch], None]]] = {
    "plain": (1, plain_step),
    "exact": (1, guided_step(GuidanceSettings(exact=True))),
    "first-order": (1, guided_step(GuidanceSettings(**ONE_SIDED))),
    "first-order, central": (1, guided_step(GuidanceSettings(step=1e-3, central=True))),
    "first-order, a quarter of the rows": (1, guided_step(GuidanceSettings(fraction=0.25, **ONE_SIDED))),
    "exact, a quarter of the rows": (1, guided_step(GuidanceSettings(exact=True, fraction=0.25))),
    "naive double backward, two labels": (2, naive_step),
    "exact, two labels": (2, guided_step(GuidanceSettings(exact=True))),
    "first-order, two labels": (2, guided_step(GuidanceSettings(**ONE_SIDED))),
    "first-order, one of two labels": (2, guided_step(GuidanceSettings(one_label=True, **ONE_SIDED))),
}


def peak_memory(step: Callable[[], None], device: torch.device) -> float:
    """Bytes allocated at the highest, above what was allocated before."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()  # parameters; gradients were dropped
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak


def speed(model: nn.Module, shape: tuple[int, ...], rows: int, device: torch.device, repetitions: int) -> list[dict]:
    """One entry a variant. Batch norm runs on its statistics, as in fine-tuning."""
    model.to(device).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    batches = {labels: Batch.drawn(shape, rows, labels, device) for labels in (1, 2)}

    def once(variant: str) -> None:
        labels, step = VARIANTS[variant]
        model.zero_grad(set_to_none=True)
        step(model, batches[labels])
        if device.type == "cuda":
            torch.cuda.synchronize()

    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for repetition in range(repetitions + 1):
        for variant in VARIANTS:
            started = time.perf_counter()
            once(variant)
            if repetition:  # the first one warms up
                seconds[variant].append(time.perf_counter() - started)
    memory = {}
    for variant in VARIANTS:
        model.zero_grad(set_to_none=True)
        memory[variant] = peak_memory(lambda v=variant: once(v), device)
    return [
        {
            "variant": variant,
            "ratio": statistics.median(a / b for a, b in zip(seconds[variant], seconds["plain"], strict=True)),
            "samples_per_second": rows / statistics.median(seconds[variant]),
            "memory_ratio": memory[variant] / memory["plain"],
        }
        for variant in VARIANTS
    ]


def parameter_gradient(surrogate: torch.Tensor, model: nn.Module) -> torch.Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(surrogate.sum(), parameters, allow_unused=True)
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]).double()


def precision(model: nn.Module, batch: Batch, steps: tuple[float, ...] = ()) -> list[dict]:
    """One entry for each precision, mode and step: agreement with exact mode in float64, form share."""
    device = batch.pixels.device
    model = model.to(device).eval()
    double = copy.deepcopy(model).double()
    pixels = batch.pixels.double().requires_grad_()
    with second_derivatives():
        logits = double(pixel_values=pixels).logits
    rest = (batch.labels, batch.provenance, batch.guided)
    truth = parameter_gradient(exact_guidance(logits, pixels, *rest, share).surrogate, double)
    del double
    settings = {"exact": GuidanceSettings(exact=True), "first-order, default step": GuidanceSettings()}
    for step in steps:
        for central in (False, True):
            kind = "central" if central else "one-sided"
            settings[f"first-order, {kind}, h {step:g}"] = GuidanceSettings(step=step, central=central)
    figures = []
    for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        autocast: AbstractContextManager = nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
        for mode, how in settings.items():
            with autocast:
                _, guidance = guided_forward(model, model, {"pixel_values": batch.pixels}, *rest, how)
            gradient = parameter_gradient(guidance.surrogate, model)
            figures.append(
                {
                    "precision": name,
                    "mode": mode,
                    "cosine": torch.cosine_similarity(truth, gradient, dim=0).item(),
                    "norm_ratio": (gradient.norm() / truth.norm()).item(),
                }
            )
    return figures


def pretrained(root: str, device: torch.device) -> dict[str, tuple[nn.Module, Batch]]:
    """The benchmark's CNN (ReLU6) and ViT (GELU) on four composites of its test split."""
    found = {}
    for name, size in CHECKPOINTS.values():
        set_seed(0)
        model = AutoModelForImageClassification.from_pretrained(
            f"{root}/{name}", num_labels=CLASSES, dtype=torch.float32, ignore_mismatched_sizes=True
        )
        rows = pets_on_scenes.load(root, "a", size, seed=0).test.shuffle(seed=0).select(range(4))
        batch = PGGCollator(AutoImageProcessor.from_pretrained(f"{root}/{name}"), image_size=size)(list(rows))
        tensors = (batch[key].to(device) for key in ("pixel_values", "labels", "provenance"))
        found[name] = (model, Batch(*tensors))
    return found


def main() -> None:
    (arguments,) = parse_options({"options": Arguments}, description=__doc__)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, rows = (224, arguments.batch_size or 64) if device.type == "cuda" else (64, arguments.batch_size or 8)
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "input_size": size,
        "batch_size": rows,
        "repetitions": arguments.repetitions,
        "seed": 0,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "speed": {},
        "precision": {},
    }
    path = Path(arguments.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():  # backbones that were measured under the same conditions are not measured again
        stored = json.loads(path.read_text())
        if all(stored.get(key) == value for key, value in record.items() if key not in FIGURES):
            record = stored

    def measure(name: str, make: Callable[[], tuple[nn.Module, Batch]], **options: Any) -> None:
        if name not in record["speed"] and arguments.only in (None, name):
            model, batch = make()
            record["precision"][name] = precision(model, batch, **options)
            shape = tuple(batch.pixels.shape[1:])
            record["speed"][name] = speed(model, shape, rows, device, arguments.repetitions)
            path.write_text(json.dumps(record, indent=1) + "\n")
            show(name, record)

    for name, (make, shape) in backbones(size).items():
        set_seed(0)
        measure(name, lambda make=make, shape=shape: (make(), Batch.drawn(shape, 4, 1, device)))
    if arguments.data is not None:
        for name, loaded in pretrained(arguments.data, device).items():
            measure(name, lambda loaded=loaded: loaded, steps=STEPS)
    print("written:", path)


def show(name: str, record: dict[str, Any]) -> None:
    print(name)
    for entry in record["speed"][name]:
        print(f"  {entry['variant']:36} {entry['ratio']:5.2f} plain steps, {entry['memory_ratio']:5.2f} memory")


if __name__ == "__main__":
    run_recipe(main)
