"""Three guided steps with parameters sharded by FSDP2 over two processes, and the same steps with whole parameters.

python -m torch.distributed.run --nproc_per_node 2 -m tests.distributed.sharded_worker OPTIONS.json
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hf_pgg.guidance.forward import GuidanceSettings, LoopState, guided_forward
from tests.conftest import tiny_model
from tests.guidance.test_engines import sample

STEPS = 3


def flat(model: nn.Module) -> torch.Tensor:
    whole = (p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters())
    return torch.cat([p.detach().flatten() for p in whole])


def train(model: nn.Module, settings: GuidanceSettings, *, sharded: bool) -> None:
    """Process 0 has three guided rows of four, process 1 none; gradients are averaged over the processes."""
    rank = dist.get_rank()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(STEPS):
        pixels, labels, provenance, guided = sample(torch.float64, seed=10 * step + rank)
        if rank == 1:
            guided = torch.zeros_like(guided)
        generator = torch.Generator().manual_seed(step)
        logits, guidance = guided_forward(
            model, model, {"pixel_values": pixels}, labels, provenance, guided, settings,
            LoopState(generator, sharded=sharded),
        )  # fmt: skip
        (logits.logsumexp(1) + guidance.value).mean().backward()
        if not sharded:
            for p in model.parameters():
                if p.grad is not None:
                    dist.all_reduce(p.grad)
                    p.grad /= dist.get_world_size()
        optimizer.step()
        optimizer.zero_grad()


def main() -> None:
    options = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(options.pop("folder"))
    dist.init_process_group("gloo")
    for fraction in options["fractions"]:
        compare(GuidanceSettings(fraction=fraction), folder, f"-{fraction}.pt")
    dist.barrier()
    dist.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # everything is written; the interpreter's own end now and then aborts on a thread of gloo's


def compare(settings: GuidanceSettings, folder: Path, ending: str) -> None:
    """Trains with whole and with sharded parameters; process 0 saves what either ended with."""

    def model() -> nn.Module:
        return tiny_model("vit").double().eval()  # no dropout: the processes' random numbers differ

    whole = model()
    start = flat(whole)
    train(whole, settings, sharded=False)
    shards = model()
    for layer in shards.vit.layers:
        fully_shard(layer)
    fully_shard(shards)
    count = min(p.device_mesh.size() for p in shards.parameters())
    train(shards, settings, sharded=True)
    result = flat(shards)
    if dist.get_rank() == 0:
        torch.save({"weights": flat(whole), "moved": (flat(whole) - start).norm().item()}, folder / f"whole{ending}")
        torch.save({"weights": result, "shards": count}, folder / f"sharded{ending}")


if __name__ == "__main__":
    main()
