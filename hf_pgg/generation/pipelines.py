"""Pipelines of diffusers (`pip install hf-pgg[generation]`): loading them with care."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
_WEIGHTS = "*.safetensors"
_PICKLED = ("*.bin", "*.ckpt", "*.pt", "*.pth")


def diffusers_library() -> ModuleType:
    """Returns the module of diffusers, an optional dependency.

    Raises:
        ImportError: If diffusers or peft is not installed, with the command that installs them.

    Example:
        >>> diffusers_library().DDPMScheduler().config.num_train_timesteps
        1000
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
    """Loads a pipeline of diffusers, from safetensors files alone.

    Args:
        name (`str`): Hub id or local folder.
        pipeline_class (`str`): Name of the class in diffusers; the repository may have been saved from a kin of it.
        trust_remote_code (`bool`): Run code that the repository brings along.

    Raises:
        ValueError: If diffusers has no such class, or the repository needs code of its own that was not asked for.
        OSError: If the weights are not there as safetensors.

    Example:
        >>> load_pipeline("my/stable-diffusion", "StableDifusionPipeline")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: diffusers ... has no pipeline 'StableDifusionPipeline': see its documentation for the names
    """
    diffusers = diffusers_library()
    if not hasattr(diffusers, pipeline_class):
        raise ValueError(
            f"diffusers {diffusers.__version__} has no pipeline '{pipeline_class}': see its documentation for the names"
        )
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
    """Loads LoRA weights (safetensors, else OSError) into a pipeline, at a scale of their effect; Real-Fake takes 0.5.

    Example:
        >>> load_lora(None, ".", scale=0.5)
        Traceback (most recent call last):
        OSError: . has no pytorch_lora_weights.safetensors: give the output folder of the generator's training
    """
    if Path(folder).is_dir() and not (Path(folder) / LORA_WEIGHTS).is_file():
        raise OSError(f"{folder} has no {LORA_WEIGHTS}: give the output folder of the generator's training")
    pipeline.load_lora_weights(folder, weight_name=LORA_WEIGHTS, use_safetensors=True, adapter_name="generator")
    pipeline.set_adapters("generator", adapter_weights=scale)


def revision_of(name: str, revision: str | None = None) -> str:
    """Returns what tells weights from others: the commit of a Hub repository, or a digest of a folder's files.

    A name that is neither a folder nor a repository is an OSError.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     revision_of(folder)
        'sha256:e3b0c44298fc1c14'
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
