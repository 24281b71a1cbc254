"""First-order against exact guidance: cosine and norm ratio of the parameter gradient over the step h.

    python recipes/measure_engines.py --data DATA

on the pretrained CNN (ReLU6) and ViT (GELU), four test composites of the pets benchmark, float32, form share. Where
activations have kinks, the two differ by more than rounding: double backward sees one linear region, a finite step
crosses into others.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass, field
from pathlib import Path

import pets_on_scenes
import torch
import transformers
from benchmark_pets import CHECKPOINTS
from transformers import AutoImageProcessor, AutoModelForImageClassification, HfArgumentParser, set_seed

from hf_pgg import PGGCollator
from hf_pgg.guidance import RandomState, exact_guidance, first_order_guidance, second_derivatives, share

STEPS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


@dataclass
class Arguments:
    data: str = field(metadata={"help": "Folder of the data sets and checkpoints."})
    results: str = field(default="recipes/results/engines.json", metadata={"help": "Where the figures are stored."})
    samples: int = field(default=4, metadata={"help": "Pictures in the batch."})


def parameter_gradient(surrogate: torch.Tensor, model: torch.nn.Module) -> torch.Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(surrogate.sum(), parameters, retain_graph=True, allow_unused=True)
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]).double()


def measure(root: str, backbone: str, samples: int) -> list[dict[str, float | str]]:
    """One entry for each step h."""
    name, size = CHECKPOINTS[backbone]
    set_seed(0)
    model = AutoModelForImageClassification.from_pretrained(
        f"{root}/{name}", num_labels=3, dtype=torch.float32, ignore_mismatched_sizes=True
    ).eval()
    rows = pets_on_scenes.load(root, "a", size, seed=0).test.shuffle(seed=0).select(range(samples))
    batch = PGGCollator(AutoImageProcessor.from_pretrained(f"{root}/{name}"), image_size=size)(list(rows))
    pixels = batch["pixel_values"].requires_grad_()
    rest = (batch["labels"], batch["provenance"], batch["guided"], share)

    def forward(moved: torch.Tensor) -> torch.Tensor:
        return model(pixel_values=moved).logits

    state = RandomState(pixels.device)
    with second_derivatives():
        logits = forward(pixels)
    exact = parameter_gradient(exact_guidance(logits, pixels, *rest).surrogate, model)
    figures = []
    for step in STEPS:
        first = first_order_guidance(forward, logits, pixels, *rest, random_state=state, step=step)
        gradient = parameter_gradient(first.surrogate, model)
        figures.append(
            {
                "backbone": name,
                "step": step,
                "cosine": torch.cosine_similarity(exact, gradient, dim=0).item(),
                "norm_ratio": (gradient.norm() / exact.norm()).item(),
            }
        )
    return figures


def main() -> None:
    (arguments,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    figures = [figure for backbone in CHECKPOINTS for figure in measure(arguments.data, backbone, arguments.samples)]
    record = {
        "figures": figures,
        "seed": 0,
        "samples": arguments.samples,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "device": f"cpu ({platform.machine()})",
    }
    path = Path(arguments.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    for figure in figures:
        print("{backbone:32} h {step:7g}  cosine {cosine:6.3f}  norm ratio {norm_ratio:8.2f}".format(**figure))


if __name__ == "__main__":
    main()
