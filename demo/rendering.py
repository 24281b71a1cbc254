"""Results of the demo page as HTML: cards and a table of images, readable in light and dark, on paper and aloud.

Everything that comes from a visitor or a checkpoint (file names, class names) is escaped here.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from experiment import Answer
from PIL import Image as PILImage
from skimage.segmentation import find_boundaries

from hf_pgg.data.images import resize
from hf_pgg.reports.figures import gradient_map, heat_overlay


def notice(message: str, kind: str = "refused") -> str:
    """A sentence in a box that a screen reader announces; `kind` is `"refused"` or `"hint"`. Backticks mark code."""
    words = re.sub("`([^`]+)`", r"<code>\1</code>", escape(message))
    return f'<div class="shown notice {kind}" role="{"alert" if kind == "refused" else "status"}">{words}</div>'


def answer_cards(image: np.ndarray, mask: np.ndarray, answers: Mapping[str, Answer]) -> str:
    """The image with its object, and beside it what each classifier answers and where its gradient lies."""
    cards = [_card("The image, its object outlined", _figure(_outlined(image, mask), "the image"))]
    for name, answer in answers.items():
        bars = "".join(
            f'<li><span class="bar" style="width:{100 * probability:.0f}%"></span>'
            f'<span class="class">{escape(label)}</span><span class="percent">{100 * probability:.0f} %</span></li>'
            for label, probability in answer.ranking
        )
        heat = _figure(_heat(image, mask, answer), f"where the {name} checkpoint's input gradient lies")
        cards.append(
            _card(
                f"{name.capitalize()}: <b>{escape(answer.label)}</b>",
                f'{heat}<p class="inside">{_inside(answer.inside)}</p><ol class="ranking">{bars}</ol>',
            )
        )
    legend = "White: the object's outline. Bright: where a small change of the image changes the answer most."
    body = f'<div class="cards">{"".join(cards)}</div><p class="legend">{legend}</p>'
    return f'<div class="shown" id="answer-cards">{body}</div>'


def moved(
    names: Sequence[str],
    images: Sequence[np.ndarray],
    mask: np.ndarray,
    before: Mapping[str, Answer],
    after: Mapping[str, Sequence[Answer]],
) -> str:
    """Headline and table of what each classifier answers once the object stands on other backgrounds."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    shown = "".join(
        f"<td>{_figure(_outlined(image, mask, 150), f'the object on {name}')}</td>"
        for name, image in zip(names, images, strict=True)
    )
    lines, verdicts = [f'<tr><th scope="row">Image</th>{shown}</tr>'], []
    for name, answers in after.items():
        first = before[name].label
        kept = [answer.label == first for answer in answers]
        cells = []
        for image, answer, same in zip(images, answers, kept, strict=True):
            word, probability = ("holds" if same else "changes"), answer.ranking[0][1]
            heat = _figure(_heat(image, mask, answer, 150), f"gradient of the {name} checkpoint")
            said = f"<b>{escape(answer.label)}</b><br>{100 * probability:.0f}&nbsp;% {word}"
            cells.append(f'<td>{heat}<span class="chip {word}">{said}</span></td>')
        lines.append(
            f'<tr><th scope="row">{name.capitalize()}<br><small>before: {escape(first)}</small></th>'
            f"{''.join(cells)}</tr>"
        )
        inside = float(np.mean([answer.inside for answer in answers]))
        verdicts.append(
            f'<p class="verdict"><span class="count">{sum(kept)} of {len(kept)}</span><span>backgrounds on which the'
            f" <b>{name}</b> checkpoint still says <b>{escape(first)}</b><br>{_inside(inside)}, on average</span></p>"
        )
    table = f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    body = f'<div class="verdicts">{"".join(verdicts)}</div><div class="scroll">{table}</div>'
    return f'<div class="shown" id="moved">{body}</div>'


def preview(image: np.ndarray, mask: np.ndarray, how: str) -> str:
    """The object as the page understands it: everything else is dimmed."""
    shown = scaled(image, 260)
    inside = resize(mask.astype(np.float32), shown.shape[:2])[..., None]
    dimmed = (shown * (0.25 + 0.75 * inside)).astype(np.uint8)
    return f'<div class="shown" id="object">{_figure(dimmed, "the object, the rest dimmed")}<p>{escape(how)}</p></div>'


def scaled(image: np.ndarray, longer: int) -> np.ndarray:
    """The image with its longer side enlarged or reduced to `longer` pixels."""
    scale = longer / max(image.shape[:2])
    return resize(image, (max(round(image.shape[0] * scale), 1), max(round(image.shape[1] * scale), 1)))


def _inside(share: float) -> str:
    if np.isnan(share):
        return "its input gradient is zero everywhere"
    return f"<b>{100 * share:.0f} %</b> of its input gradient is on the object"


def _card(title: str, body: str) -> str:
    return f'<section class="card"><h3>{title}</h3>{body}</section>'


def _figure(image: np.ndarray, words: str) -> str:
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, format="JPEG", quality=88)
    source = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(words)}" src="data:image/jpeg;base64,{source}">'


def _outlined(image: np.ndarray, mask: np.ndarray, longer: int = 420) -> np.ndarray:
    shown = scaled(image, longer).copy()
    inside = resize(mask.astype(np.float32), shown.shape[:2]) > 0.5
    shown[find_boundaries(inside, mode="thick")] = 255
    return shown


def _heat(image: np.ndarray, mask: np.ndarray, answer: Answer, longer: int = 420) -> np.ndarray:
    return _outlined(heat_overlay(scaled(image, longer), gradient_map(answer.gradient[None])), mask, longer)
