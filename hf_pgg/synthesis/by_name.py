"""The synthesis methods of images that need no more than rows and backgrounds, by name: for command lines."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from hf_pgg.data.images import open_image
from hf_pgg.data.provenance import IMAGE
from hf_pgg.synthesis.background_exchange import BackgroundExchange
from hf_pgg.synthesis.composite import Composite
from hf_pgg.synthesis.cutmix import CutMix
from hf_pgg.synthesis.resizemix import ResizeMix

MIXES = {"exchange": BackgroundExchange, "cutmix": CutMix, "resizemix": ResizeMix}
SYNTHESES = ("composite", *MIXES)


def synthesis_by_name(
    name: str, rows: Dataset, backgrounds: Dataset | None = None, *, flip: float = 0.5, **options: Any
) -> Any:
    """Returns the synthesis method of a name, set up for some rows.

    Args:
        name (`str`): `"composite"`, `"exchange"`, `"cutmix"` or `"resizemix"`, else it is a ValueError.
        rows (`Dataset`): Rows with provenance; the partners of a mix, and the size of composites, are taken from them.
        backgrounds (`Dataset`, *optional*): Background images, which composites need (ValueError).
        flip (`float`): How often a composite mirrors its object: 0 where a mirrored object is another one, as digits.
        options: Further settings of the method: `seed`, `image_column`, ...

    Example:
        >>> mixed = synthesis_by_name("cutmix", rows, seed=0).map(rows)
        >>> len(mixed[0]["provenance"])  # a mask for each of two sources
        2
    """
    if name not in SYNTHESES:
        raise ValueError(f"there is no synthesis '{name}': choose {', '.join(SYNTHESES)}")
    if name != "composite":
        return MIXES[name](source=rows, **options)
    if backgrounds is None:
        raise ValueError("--synthesis composite needs --backgrounds, a data set of background images")
    size = open_image(rows[0][options.get("image_column", IMAGE)]).size[0]
    return Composite(backgrounds=backgrounds, size=size, flip=flip, scale=(0.6, 0.9), **options)
