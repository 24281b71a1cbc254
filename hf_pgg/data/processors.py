"""Image processors of any class: run, resized, and measured by what they do.

Their fields have many names, whose meaning differs between classes. So the fields are not trusted: black, white and
coloured images tell what a processor does to values, and what is painted into an image where its masks go.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage


def process(processor: Any, image: torch.Tensor) -> torch.Tensor:
    """Sends an image or clip ([T,] 3, H, W) uint8 through a processor; ValueError unless it makes one image of each.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> process(ViTImageProcessor(size={"height": 8, "width": 8}), torch.zeros(3, 20, 30, dtype=torch.uint8)).shape
        torch.Size([3, 8, 8])
    """
    frames = image if image.ndim == 4 else image[None]
    if hasattr(processor, "sample_frames"):  # of clips
        inputs: Any = [frames]
    else:
        inputs = [PILImage.fromarray(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]
    try:
        out = processor(inputs, return_tensors="pt")[processor.model_input_names[0]]
    except Exception as error:  # whatever the class, it is not one for whole images
        raise ValueError(
            f"{type(processor).__name__} cannot process an image of {image.shape[-1]}x{image.shape[-2]} pixels:"
            f" {type(error).__name__}: {error}"
        ) from error
    if out.ndim < 4 or out.shape[-3] != 3 or out.shape[:-3].numel() != len(frames):
        raise ValueError(
            f"{type(processor).__name__} makes {tuple(out.shape)} of {len(frames)} images of 3 channels: use the"
            " processor of a model that reads whole images"
        )
    return out.float().flatten(0, -4) if image.ndim == 4 else out.float().reshape(out.shape[-3:])


def output_size(processor: Any) -> tuple[int, int]:
    """Returns the (height, width) that every image has after a processor; ValueError if it depends on the image.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> output_size(ViTImageProcessor(size={"height": 8, "width": 12}))
        (8, 12)
    """
    name = type(processor).__name__
    if not callable(processor):
        raise ValueError(f"{name} states no input size and cannot be called: give the model's image processor")
    sizes = {process(processor, noise(*shape)).shape[-2:] for shape in ((61, 83), (83, 61), (97, 40), (50, 50))}
    if len(sizes) > 1:
        raise without_size(processor)
    height, width = sizes.pop()
    return height, width


def without_size(processor: Any) -> ValueError:
    """Returns the refusal of a processor whose output has the size of its input, with the fields that say so.

    Example:
        >>> from transformers import ViTImageProcessor
        >>> str(without_size(ViTImageProcessor(do_resize=False))).split(": set")[1]
        ' `do_center_crop` and `crop_size`, or a `size` of height and width, or pass `image_size`'
    """
    names = ("size", "crop_size", "do_resize", "do_center_crop", "do_pad")
    values = {name: getattr(processor, name) for name in names if hasattr(processor, name)}
    for name in ("size", "crop_size"):
        values[name] = {key: side for key, side in dict(values.get(name) or {}).items() if side}
    fields = ", ".join(f"{name}={value}" for name, value in values.items())
    return ValueError(
        f"{type(processor).__name__} states no input size that every image gets ({fields}): set `do_center_crop` and"
        " `crop_size`, or a `size` of height and width, or pass `image_size`"
    )


def sized(processor: Any, image_size: int, squash: bool = False) -> Any:
    """Returns a copy of an image processor whose output is square, and which is to be saved with the model.

    Args:
        image_size (`int`): Side of the output in pixels; the crop margin scales with it.
        squash (`bool`): Squash the whole image to the output, so that nothing is cropped.

    Raises:
        ValueError: If the processor cannot be set to that size.

    Example:
        >>> from transformers import BitImageProcessor
        >>> dict(sized(BitImageProcessor(size={"shortest_edge": 256}), 112).size)
        {'shortest_edge': 128}
    """
    side = {"height": image_size, "width": image_size}
    if hasattr(processor, "data_config"):  # timm's wrapper, which is built from its configuration
        config = {**processor.data_config, "input_size": (3, image_size, image_size)}
        config |= {"crop_mode": "squash", "crop_pct": 1.0} if squash else {}
        return type(processor)(config, architecture=getattr(processor, "architecture", None))
    twin = copy.deepcopy(processor)
    try:
        before = None if squash else output_size(processor)
    except ValueError:
        before = None
    if before is None:  # nothing to scale
        twin.do_resize, twin.do_center_crop, twin.do_pad, twin.size = True, False, False, _like(processor.size, side)
    else:
        for name in ("size", "crop_size", "pad_size"):
            old = getattr(processor, name, None)
            if old:
                shares = {key: before[key.endswith("width")] for key in dict(old)}  # height and width apart
                scaled = {key: image_size * value // shares[key] for key, value in dict(old).items() if value}
                setattr(twin, name, _like(old, scaled))
    try:
        found: Any = output_size(twin)
    except ValueError as error:
        found = error
    if squash and isinstance(found, ValueError):  # ConvNeXt's knows no width
        return _squasher(processor, side)
    if found != (image_size, image_size):
        raise ValueError(f"{type(processor).__name__} cannot be set to {image_size} pixels (it gives {found})")
    return twin


def _squasher(processor: Any, size: dict[str, int]) -> Any:
    """A processor of the plainest class, with the values of another one."""
    from transformers import ViTImageProcessor  # slow to import

    mean, std, channels = values_of(processor)
    if channels != (0, 1, 2):
        raise ValueError(f"{type(processor).__name__} cannot be set to squash images to {size}")
    return ViTImageProcessor(size=size, resample=processor.resample, image_mean=list(mean), image_std=list(std))


def _like(old: Any, values: dict[str, int]) -> Any:
    """A size of the kind that the processor has: a dictionary, or the class of `transformers`."""
    return values if old is None else type(old)(**values)


def noise(height: int, width: int) -> torch.Tensor:
    """Makes an image (3, H, W) uint8 of noise over gradients, by which two geometries differ, if they do.

    Example:
        >>> noise(2, 3).shape, noise(2, 3).dtype
        (torch.Size([3, 2, 3]), torch.uint8)
    """
    rng = np.random.default_rng([height, width])
    slope = np.linspace(0, 1, height)[:, None] * [[[90]], [[60]], [[-90]]] + np.linspace(0, 60, width)
    return torch.from_numpy(np.clip(slope + rng.integers(20, 130, (3, height, width)), 0, 255).astype(np.uint8))


def _colour(shape: tuple[int, ...], *rgb: int) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.uint8)[:, None, None].expand(3, *shape).contiguous()


def values_of(processor: Any) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Measures what a processor does to values: mean and deviation by channel, of values in [0, 1], and their order.

    Raises:
        ValueError: If a channel of the output is no single one of red, green and blue.

    Example:
        >>> from transformers import MobileViTImageProcessor
        >>> values_of(MobileViTImageProcessor())  # blue first
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (2, 1, 0))
    """
    black, *pure = (
        process(processor, _colour((64, 64), *rgb)).flatten(1)
        for rgb in ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    )
    centre = black.shape[1] // 2 + output_size(processor)[1] // 2  # away from padding
    answers = torch.stack([(colour - black)[:, centre] for colour in pure])  # (of red, green, blue; channel)
    channels = answers.abs().argmax(0)
    slope = answers[channels, torch.arange(3)]
    answers[channels, torch.arange(3)] = 0
    if (slope == 0).any() or answers.abs().max() > 1e-3 * slope.abs().max() or len(channels.unique()) < 3:
        fields = [name for name in vars(processor) if name.startswith("do_") and getattr(processor, name)]
        raise ValueError(
            f"{type(processor).__name__} mixes the colours of an image ({', '.join(fields)} are set): its channels must"
            " be red, green and blue, in any order"
        )
    std = [float(f"{1 / value:.7g}") for value in slope.tolist()]
    mean = [round(-value * deviation, 6) + 0.0 for value, deviation in zip(black[:, centre].tolist(), std, strict=True)]
    return tuple(mean), tuple(std), tuple(channels.tolist())


@lru_cache(maxsize=8)
def _bounds(processor: Any, shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a processor makes of black, and how white differs from it: 0 where it pads."""
    black = process(processor, _colour(shape, 0, 0, 0))
    return black, process(processor, _colour(shape, 255, 255, 255)) - black


def process_masks(processor: Any, masks: torch.Tensor) -> torch.Tensor:
    """Sends masks (K, H, W) in [0, 1] through the geometry of a processor, whatever it does to values; pads with 0.

    Example:
        >>> from transformers import MobileViTImageProcessor
        >>> masks = process_masks(MobileViTImageProcessor(size={"shortest_edge": 8}, crop_size=10), torch.ones(1, 9, 9))
        >>> masks.shape, masks[0, 0, :3]
        (torch.Size([1, 10, 10]), tensor([0., 0., 0.]))
    """
    black, white = _bounds(processor, tuple(masks.shape[-2:]))
    grey = (masks * 255).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    change = (torch.stack([process(processor, mask) for mask in grey]) - black).sum(1)
    return torch.where(white.sum(0).abs() > 1e-6, change / white.sum(0), 0).clamp(0, 1)


def _masks_follow(processor: Any) -> bool:
    """Whether what is painted into an image stays where the masks say, however the image looks."""
    rows, columns = torch.linspace(60, 90, 61)[:, None], torch.linspace(10, 60, 83)
    image = (rows + columns).to(torch.uint8).expand(3, -1, -1)
    inner, edge = torch.zeros(2, 61, 83)
    inner[7:31, 44:77] = edge[:, 50:] = 1
    plain, (_, white) = process(processor, image), _bounds(processor, (61, 83))
    for mask in (inner, edge, 1 - edge):
        change = process(processor, torch.where(mask.bool(), image + 100, image)) - plain
        found = change * 2.55 / torch.where(white == 0, 1, white)  # as the mask: 0 and 1
        if (found - process_masks(processor, mask[None])).abs().max() > 0.3:  # bicubic kernels overshoot
            return False
    return True


def check_masks(processor: Any) -> None:
    """Proves on one image that masks can follow it through a processor.

    Raises:
        ValueError: If they cannot; the message names the field that forbids it.

    Example:
        >>> from transformers import NougatImageProcessor
        >>> check_masks(NougatImageProcessor(size={"height": 20, "width": 20}))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: NougatImageProcessor moves an image by what is in it... set `do_crop_margin` to False
    """
    if _masks_follow(processor):
        return
    fields = [name for name, value in vars(processor).items() if name.startswith("do_") and value]
    for name in fields:
        twin = copy.deepcopy(processor)
        setattr(twin, name, False)
        try:
            if _masks_follow(twin):
                fields = [name]
                break
        except (ValueError, RuntimeError):  # without it sizes differ
            pass
    raise ValueError(
        f"{type(processor).__name__} moves an image by what is in it, so that its masks cannot follow: set"
        f" {' or '.join(f'`{name}`' for name in fields)} to False"
    )
