"""What the buttons of the demo page do: from what a visitor gave to a result, or to a sentence about what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rendering
from experiment import (
    Answer,
    Refused,
    ask,
    find_object,
    load_classifier,
    move,
    painted_mask,
    read_image,
    read_mask,
    scenes,
)


def the_image(path: str | None) -> np.ndarray:
    """The visitor's image.

    Raises:
        Refused: If there is none, or it cannot be used.
    """
    if path is None:
        raise Refused("There is no image yet: drop one into the box above, or choose an example.")
    return read_image(path)


def the_object(
    image: np.ndarray, editor: Mapping[str, Any] | None, grow: bool, mask_path: str | None
) -> tuple[np.ndarray, str]:
    """The object's mask (H, W) bool, and how it was found: uploaded, else painted, else automatically.

    Raises:
        Refused: If the mask cannot be used.
    """
    if mask_path is not None:
        return read_mask(mask_path, image.shape[:2]), "The object, from the mask you gave."
    painted = painted_mask(editor["layers"], image.shape[:2]) if editor else None
    if painted is None:
        return find_object(image), "A guess from the middle of the image. Paint over the object to correct it."
    if grow:
        return find_object(image, painted), "Grown from your paint to the edges around it."
    return painted, "Exactly what you painted."


def on_image(path: str | None) -> tuple[str | None, Any, str | None, str, str, str]:
    """A new file: it is checked, laid into the editor, and everything that belonged to the old one is cleared.

    Returns:
        Image file (None if refused), editor, mask file, message, and the two empty results.
    """
    if path is None:
        return None, None, None, "", "", ""
    try:
        image = read_image(path)
    except Refused as refusal:
        return None, None, None, rendering.notice(str(refusal)), "", ""
    shown = rendering.scaled(image, 480)  # a small image is enlarged: one of 48 pixels cannot be painted on
    return path, {"background": shown, "layers": [], "composite": None}, None, "", "", ""


def on_object(*inputs: Any) -> str:
    """The object as the page understands it now, or why it does not."""
    path, editor, grow, mask_path = inputs
    if path is None:
        return ""
    try:
        image = read_image(path)
        return rendering.preview(image, *the_object(image, editor, grow, mask_path))
    except Refused as refusal:
        return rendering.notice(str(refusal))


def answers(plain: str | None, guided: str | None, images: Sequence[np.ndarray], mask: np.ndarray) -> dict[str, Any]:
    """`plain` and `guided` to the list of their answers, one an image.

    Raises:
        Refused: If a checkpoint is not named or cannot be loaded.
    """
    if not plain or not guided:
        raise Refused("Name two checkpoints: folders that transformers can load, or Hub ids such as owner/name.")
    return {kind: ask(load_classifier(name), images, mask) for kind, name in (("plain", plain), ("guided", guided))}


def compare(
    path: str | None,
    editor: Mapping[str, Any] | None,
    grow: bool,
    mask_path: str | None,
    plain: str | None,
    guided: str | None,
) -> str:
    """The image, and each checkpoint's answer and gradient beside it, as HTML."""
    try:
        image = the_image(path)
        mask, _ = the_object(image, editor, grow, mask_path)
        found = answers(plain, guided, [image], mask)
    except Refused as refusal:
        return rendering.notice(str(refusal))
    return rendering.answer_cards(image, mask, {kind: of[0] for kind, of in found.items()})


def move_object(
    path: str | None,
    editor: Mapping[str, Any] | None,
    grow: bool,
    mask_path: str | None,
    plain: str | None,
    guided: str | None,
    own_background: str | None,
) -> str:
    """Each checkpoint's answer with the object on the visitor's background and on ten photographs, as HTML."""
    try:
        image = the_image(path)
        mask, _ = the_object(image, editor, grow, mask_path)
        backgrounds = {"yours": read_image(own_background)} if own_background else {}
        backgrounds |= scenes()
        images = [move(image, mask, background) for background in backgrounds.values()]
        found = answers(plain, guided, [image, *images], mask)
    except Refused as refusal:
        return rendering.notice(str(refusal))
    before: dict[str, Answer] = {kind: of[0] for kind, of in found.items()}
    after = {kind: of[1:] for kind, of in found.items()}
    return rendering.moved(list(backgrounds), images, mask, before, after)
