"""An audit as JSON, Markdown, and one HTML page that needs neither network nor script."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image as PILImage

from hf_pgg.auditing.audit import Audit
from hf_pgg.metrics.reliance import HEADLINES, VARIANTS

_TEMPLATE = Path(__file__).with_name("report_template.html")
_MOST = 8  # rows and classes that are shown
_NAMES = {
    "background_effect": "Background effect, in the margin's spread",
    "foreground_effect": "Object effect, in the margin's spread",
    "effect_ratio": "Background effect over object effect",
    "flip_rate": "Answers that another background changes",
    "bg_gap": "BG-gap: accuracy on backgrounds of the same class less random ones",
    "adversarial_accuracy": "Right on every random background",
    "fill_effect": "Effect of filling alone, in the margin's spread",
}


def as_record(audit: Audit, against: Audit | None = None) -> dict[str, Any]:
    """Returns what an audit found as a value that JSON can hold; None stands for a figure that is not defined.

    Args:
        against (`Audit`, *optional*): Of another checkpoint on the same rows; adds the paired differences.

    Example:
        >>> from hf_pgg.auditing.audit import audit
        >>> from hf_pgg.localization.classifier import Classifier
        >>> record = as_record(audit(Classifier("tiny", model, spec, labels={0: "cat", 1: "dog"}), rows))
        >>> record["model"], record["rows"]
        ('tiny', 4)
    """
    record: dict[str, Any] = {
        "model": audit.model,
        "verdict": audit.verdict,
        "rows": len(audit.rows),
        "left_out": audit.left_out,
        "settings": asdict(audit.settings),
        "results": audit.results,
        "classes": audit.by_class,
        "groups": audit.by_group,
        "most_decided": [audit.rows[place] for place in audit.most_decided(_MOST)],
    }
    if against is not None:
        record["against"] = as_record(against)
        record["differences"] = audit.reliance.compared(against.reliance, seed=audit.settings.seed)
    return json.loads(json.dumps(record), parse_constant=lambda name: None)  # NaN: without a unit, not defined


def as_markdown(audit: Audit, against: Audit | None = None) -> str:
    """Returns the verdict, the table of figures, and the classes most at risk, in Markdown.

    Example:
        >>> from hf_pgg.auditing.audit import audit
        >>> from hf_pgg.localization.classifier import Classifier
        >>> print(as_markdown(audit(Classifier("tiny", model, spec, labels={0: "cat", 1: "dog"}), rows))[:15])
        # Audit of tiny
    """
    columns, lines = _columns(audit, against), [f"# Audit of {audit.model}", "", audit.verdict, ""]
    if against is not None:
        lines += [f"Beside it, {against.model}: {against.verdict}", ""]
    lines += ["| | " + " | ".join(name for name, _ in columns) + " |", "| --- |" + " --- |" * len(columns)]
    lines += [
        f"| {words} | " + " | ".join(_told(results.get(name)) for _, results in columns) + " |"
        for name, words in _rows(audit)
    ]
    lines += ["", f"{len(audit.rows)} rows, 95 % intervals of {_how(audit)}"]
    for title, found in (("Classes most at risk", audit.by_class[:_MOST]), ("Groups", audit.by_group)):
        if found:
            lines += [
                "",
                f"| {title} | rows | accuracy | on random backgrounds | answers changed |",
                "|" + " --- |" * 5,
            ]
        for row in found:
            figures = (row[name] for name in ("accuracy_original", "accuracy_random", "flip_rate"))
            lines.append(
                f"| {row['name']} | {row['rows']} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |"
            )
    return "\n".join(lines) + "\n"


def as_html(audit: Audit, against: Audit | None = None) -> str:
    """Returns one page: verdict, figures, accuracy on each variant, the rows the background decides most, and classes.

    Example:
        >>> from hf_pgg.auditing.audit import audit
        >>> from hf_pgg.localization.classifier import Classifier
        >>> page = as_html(audit(Classifier("<tiny>", model, spec, labels={0: "cat", 1: "dog"}), rows))
        >>> "<script" in page, "&lt;tiny&gt;" in page
        (False, True)
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    columns = _columns(audit, against)
    return environment.from_string(_TEMPLATE.read_text()).render(
        audit=audit,
        against=against,
        columns=[name for name, _ in columns],
        table=[(words, [_told(results.get(name)) for _, results in columns]) for name, words in _rows(audit)],
        bars=[(words, audit.results[f"accuracy_{name}"]) for name, words in VARIANTS.items()],
        examples=_examples(audit),
        classes=audit.by_class[:_MOST],
        groups=audit.by_group,
        how=_how(audit),
    )


def write_report(folder: str | Path, audit: Audit, against: Audit | None = None) -> Path:
    """Writes `audit.json`, `audit.md` and `audit.html` to a folder, which is made if need be, and returns the folder.

    Example:
        >>> import tempfile
        >>> from hf_pgg.auditing.audit import audit
        >>> from hf_pgg.localization.classifier import Classifier
        >>> found = audit(Classifier("tiny", model, spec, labels={0: "cat", 1: "dog"}), rows)
        >>> sorted(file.name for file in write_report(tempfile.mkdtemp(), found).iterdir())
        ['audit.html', 'audit.json', 'audit.md']
    """
    folder = Path(folder)
    record = json.dumps(as_record(audit, against), indent=1) + "\n"
    texts = {"audit.json": record, "audit.md": as_markdown(audit, against), "audit.html": as_html(audit, against)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def _columns(audit: Audit, against: Audit | None) -> list[tuple[str, dict[str, dict[str, float]]]]:
    if against is None:
        return [(audit.model, audit.results)]
    differences = audit.reliance.compared(against.reliance, seed=audit.settings.seed)
    return [(audit.model, audit.results), (against.model, against.results), ("difference, paired", differences)]


def _rows(audit: Audit) -> list[tuple[str, str]]:
    accuracies = [(f"accuracy_{name}", f"Accuracy, {words}") for name, words in VARIANTS.items()]
    return [(name, _NAMES[name]) for name in (*HEADLINES, "adversarial_accuracy")] + accuracies


def _told(figure: dict[str, float] | None) -> str:
    """A figure and its interval: `0.52 (0.47 to 0.57)`."""
    if figure is None or not math.isfinite(figure["value"]):
        return "not defined"
    ends = f" ({figure['low']:.2f} to {figure['high']:.2f})" if "low" in figure else ""
    return f"{figure['value']:.2f}{ends}"


def _how(audit: Audit) -> str:
    left = ", ".join(f"{count} {why}" for why, count in audit.left_out.items())
    return f"a bootstrap over rows, seed {audit.settings.seed}." + (f" Left out: {left}." if left else "")


def _examples(audit: Audit) -> list[dict[str, Any]]:
    """The rows that the background decides most: each image as it is and on the background that changed most."""
    shown, answers, moved = [], audit.reliance.answers("random"), audit.reliance.margins("random")
    before = audit.reliance.answers("original")[:, 0]
    for place in audit.most_decided(_MOST):
        images = dict(audit.pool.variants([place]))
        worst = int(moved[place].argmin())
        shown.append(
            {
                "row": audit.rows[place],
                "class": audit.labels[int(audit.reliance.labels[place])],
                "before": (_inline(audit.display(images["original"][0, 0])), audit.labels[int(before[place])]),
                "after": (_inline(audit.display(images["random"][0, worst])), audit.labels[int(answers[place, worst])]),
            }
        )
    return shown


def _inline(image: torch.Tensor) -> str:
    """An image (H, W, 3) in [0, 1] as the address of an <img> that holds it."""
    file = io.BytesIO()
    PILImage.fromarray((image * 255).round().byte().numpy()).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def exceeded(audit: Audit, thresholds: Sequence[str]) -> list[str]:
    """Returns a sentence for each figure that is above its threshold, such as `background_effect=0.5`.

    Args:
        thresholds (`Sequence[str]`): `FIGURE=VALUE` each; `effect` stands for `background_effect`.

    Raises:
        ValueError: If there is no such figure, or no number.

    Example:
        >>> from hf_pgg.auditing.audit import audit
        >>> from hf_pgg.localization.classifier import Classifier
        >>> found = audit(Classifier("tiny", model, spec, labels={0: "cat", 1: "dog"}), rows)
        >>> exceeded(found, ["flip_rate=1.0"])
        []
    """
    found = []
    for threshold in thresholds:
        name, _, number = threshold.partition("=")
        figure = {"effect": "background_effect", "flips": "flip_rate"}.get(name, name)
        try:
            limit = float(number)
        except ValueError:
            raise ValueError(f"'{threshold}' is no threshold: give FIGURE=VALUE, such as effect=0.5") from None
        if figure not in audit.results:
            raise ValueError(f"there is no figure '{name}': choose one of {', '.join(sorted(audit.results))}")
        value = audit.results[figure]["value"]
        if not value <= limit:
            found.append(f"{figure} is {value:.3f}, above {limit:g}")
    return found
