"""Pipelines of diffusers (`pip install hf-pgg[generation]`): loading them with care, and calling them on a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
_WEIGHTS = "*.safetensors"
_PICKLED = ("*.bin", "*.ckpt", "*.pt", "*.pth")


def diffusers_library() -> ModuleType:
    """diffusers, the optional dependency.

    Raises:
        ImportError: If it or peft is not installed, with the command that installs them.
    """
    try:
        import diffusers
        import peft  # noqa: F401  # diffusers loads LoRA weights through it
    except ImportError as error:
        raise ImportError("images are generated with diffusers: `pip install hf-pgg[generation]`") from error
    return diffusers


def load_pipeline(
    name: str,
    pipeline_class: str = "StableDiffusionImg2ImgPipeline",
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> Any:
    """A pipeline of diffusers, from safetensors files alone.

    Args:
        name (`str`): Hub id or local folder.
        pipeline_class (`str`): Name of the class in diffusers; the repository may have been saved from a kin of it.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        trust_remote_code (`bool`): Run code that the repository brings along. diffusers raises ValueError where a
            repository needs it and it was not asked for.

    Raises:
        ValueError: If diffusers has no such class, or the repository needs code of its own.
        OSError: If the weights are not there as safetensors.
    """
    diffusers = diffusers_library()
    if not hasattr(diffusers, pipeline_class):
        raise ValueError(f"diffusers {diffusers.__version__} has no pipeline '{pipeline_class}'")
    try:
        pipeline = getattr(diffusers, pipeline_class).from_pretrained(
            name, revision=revision, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    except OSError as error:
        pickled = sorted({path.name for kind in _PICKLED for path in Path(name).glob(f"*/{kind}")})
        found = f" It holds {', '.join(pickled)}." if pickled else ""
        raise OSError(
            f"{name} cannot be loaded: {error}.{found} Weights are read from safetensors files alone, a pickle can run"
            " any code; convert pickled weights with `pipeline.save_pretrained(folder)` where they are trusted."
        ) from error
    pipeline.set_progress_bar_config(disable=True)  # one bar counts images; not one a batch
    return pipeline


def load_lora(pipeline: Any, folder: str, scale: float) -> None:
    """Loads LoRA weights (safetensors) into a pipeline, at a scale of their effect; 0.5 in Real-Fake.

    Raises:
        OSError: If the folder holds no safetensors file of LoRA weights.
    """
    if Path(folder).is_dir() and not (Path(folder) / LORA_WEIGHTS).is_file():
        raise OSError(f"{folder} has no {LORA_WEIGHTS}: give the output folder of the generator's training")
    pipeline.load_lora_weights(folder, weight_name=LORA_WEIGHTS, use_safetensors=True, adapter_name="generator")
    pipeline.set_adapters("generator", adapter_weights=scale)


def revision_of(name: str, revision: str | None = None) -> str:
    """What tells these weights from others: the commit of a Hub repository, or a digest of a local folder's files.

    Raises:
        OSError: If it is neither a folder nor a repository.
    """
    folder = Path(name)
    if folder.is_dir():
        digest = hashlib.sha256()
        for file in sorted([*folder.rglob(_WEIGHTS), *folder.rglob("*.json")]):
            digest.update(str(file.relative_to(folder)).encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
        return f"sha256:{digest.hexdigest()[:16]}"
    for index in ("model_index.json", "config.json"):  # of a pipeline, of a single model
        cached = try_to_load_from_cache(name, index, revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent.name
    return Path(snapshot_download(name, revision=revision, allow_patterns=["*.json"])).name


def run_pipeline(pipeline: Any, seeds: Sequence[int], **arguments: Any) -> list[np.ndarray]:
    """Calls a pipeline on a batch, each image with noise of its own: it depends on its seed, not on its neighbours.

    Args:
        seeds: One an image; the generators are on the CPU, so that a seed is the same image's on any device.
        arguments: Of the pipeline's call.

    Returns:
        (H, W, 3) uint8 an image; black where the pipeline's safety filter has struck.

    Raises:
        ValueError: If images hold NaN.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    output = pipeline(generator=generators, output_type="np", **arguments)
    values = np.asarray(output.images)
    if not np.isfinite(values).all():
        raise ValueError(
            f"{type(pipeline).__name__} returned NaN in {pipeline.dtype}: run it in bfloat16 or float32 instead"
        )
    images = list(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))
    flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(images)
    return [np.zeros_like(image) if struck else image for image, struck in zip(images, flagged, strict=True)]
