"""Guidance in a plain Accelerate loop, without a Trainer: `accelerate launch recipes/accelerate_loop.py`."""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import ConvNextConfig, ConvNextForImageClassification, ViTImageProcessor

from hf_pgg import PGGCollator
from hf_pgg.demo_data import digits_on_photographs
from hf_pgg.guidance.forward import GuidanceSettings, guided_forward
from hf_pgg.training.trainer import soft_cross_entropy


def main(steps: int = 60, alpha: float = 1.0) -> None:
    set_seed(0)
    accelerator = Accelerator()
    collator = PGGCollator(ViTImageProcessor(size={"height": 48, "width": 48}))
    rows = digits_on_photographs()["train"]
    model = ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[16, 32, 64, 96], depths=[1] * 4, num_labels=10))
    loader = torch.utils.data.DataLoader(rows, batch_size=32, shuffle=True, collate_fn=collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    module = accelerator.unwrap_model(model)  # further passes go past DDP's wrapper

    # the twenty lines
    for step, batch in zip(range(steps), loader, strict=False):
        logits, guidance = guided_forward(
            model,
            module,
            {"pixel_values": batch["pixel_values"]},
            batch["labels"],
            batch["provenance"],
            batch["guided"],
            GuidanceSettings(),
        )
        entropy = soft_cross_entropy(logits, batch["labels"], batch["label_weights"])
        accelerator.backward((entropy + alpha * guidance.value).mean())
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            parts = (entropy.mean(), guidance.loss.mean(), guidance.target_share.mean())
            accelerator.print(step, "classification {:.3f}, guidance {:.3f}, target share {:.3f}".format(*parts))


if __name__ == "__main__":
    main()
