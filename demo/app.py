"""The demo page: what two checkpoints see in an image, and whether their answers survive another background.

    python demo/app.py --plain out/train_cls/plain --guided out/train_cls/guided

serves http://127.0.0.1:7860. Nothing is trained, sent anywhere or fetched, except a checkpoint that is named by its
Hub id. As a Space, `HF_PGG_PLAIN`, `HF_PGG_GUIDED` and `HF_PGG_OTHERS` name the checkpoints; see README.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
import rendering
from actions import compare, move_object, on_image, on_object
from experiment import Refused, example_digits, load_classifier, scenes
from transformers.utils import logging

MAX_UPLOAD = "10mb"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HERE = Path(__file__).resolve().parent
HOW_TO_GET_CHECKPOINTS = (
    "No checkpoints are named yet: `accelerate launch recipes/train_cls.py --compare` trains two in a few minutes, and"
    " `python demo/app.py --plain out/train_cls/plain --guided out/train_cls/guided` opens this page with them."
)
LEAD = """# Does it see the object, or the background?

<p class="lead">Two image classifiers look at the same image: one trained plainly, one with input gradient guidance.
The heat shows where a small change of the image would change the answer most. Then the object is moved onto other
photographs: a classifier that looks at the object keeps its answer.</p>"""


def build_page(
    plain: str | None = None,
    guided: str | None = None,
    others: Sequence[str] = (),
    *,
    any_checkpoint: bool = True,
    examples: Sequence[tuple[Path, Path]] = (),
) -> gr.Blocks:
    """Builds the page.

    Args:
        plain, guided, others: Checkpoints offered, local folders or Hub ids; the first two are chosen at the start.
        any_checkpoint (`bool`): Whether a visitor may name others. Only where the visitor is the owner of the machine.
        examples: (image, mask) files offered under the drop zone.
    """
    offered = list(dict.fromkeys(name for name in (plain, guided, *others) if name))
    # visitors' files live an hour; nothing else of a visit is kept
    with gr.Blocks(analytics_enabled=False, title="Object or background?", delete_cache=(600, 3600)) as page:
        gr.Markdown(LEAD)
        if not plain or not guided:
            gr.HTML(rendering.notice(HOW_TO_GET_CHECKPOINTS, "hint"))
        parts = {**_image_and_object(examples), **_checkpoints_and_results(plain, guided, offered, any_checkpoint)}
        _connect(SimpleNamespace(**parts), examples)
    return page


def _image_and_object(examples: Sequence[tuple[Path, Path]]) -> dict[str, Any]:
    """Steps 1 and 2 of the page; its components by name."""
    with gr.Row():
        with gr.Column(scale=3):
            gr.Markdown(f"### 1. An image\nPNG, JPEG, WebP, BMP, GIF or TIFF, at most {MAX_UPLOAD[:-2]} MB.")
            file = gr.File(label="Image", height=150, elem_id="image")
            message = gr.HTML(elem_id="message")
            shelf = gr.Dataset(
                components=[gr.Image(visible=False)],
                samples=[[str(image)] for image, _ in examples],
                label="Or an example: digits, each on the photograph that its class was trained on",
                type="index",
                visible=bool(examples),
                elem_id="examples",
            )
        with gr.Column(scale=4):
            gr.Markdown("### 2. The object\nPaint over it, upload a mask, or leave it to the page.")
            editor = gr.ImageEditor(
                label="Paint over the object",
                sources=(),
                transforms=(),
                layers=False,
                brush=gr.Brush(colors=["#ff2bd6"], color_mode="fixed"),
                height=380,
                elem_id="editor",
            )
        with gr.Column(scale=3):
            gr.Markdown("### &nbsp;\nWhat counts as the object")
            understood = gr.HTML(elem_id="understood")
            grow = gr.Checkbox(True, label="Grow the paint to the object's edges")
            with gr.Accordion("Upload a mask instead", open=False):
                mask = gr.File(label="Mask: object white", height=110, elem_id="mask")
    return {"file": file, "message": message, "shelf": shelf, "editor": editor, "understood": understood, "grow": grow,
            "mask": mask}  # fmt: skip


def _checkpoints_and_results(
    plain: str | None, guided: str | None, offered: Sequence[str], any_checkpoint: bool
) -> dict[str, Any]:
    """Steps 3 and 4 of the page; its components by name."""
    gr.Markdown("### 3. Two checkpoints")
    with gr.Row():
        options: dict[str, Any] = {"choices": offered, "allow_custom_value": any_checkpoint}
        info = "A local folder or a Hub id, safetensors only." if any_checkpoint else None
        first = gr.Dropdown(**options, value=plain, label="Plain", info=info, elem_id="plain")
        second = gr.Dropdown(**options, value=guided, label="Guided", info=info, elem_id="guided")
    compare_button = gr.Button("Compare the two", variant="primary", elem_id="compare")
    cards = gr.HTML(elem_id="cards")
    gr.Markdown("### 4. Another background")
    with gr.Accordion("Add a background of your own", open=False):
        background = gr.File(label="Background", height=110, elem_id="background")
    move_button = gr.Button("Move the object to another background", variant="primary", elem_id="move")
    moved = gr.HTML(elem_id="moved-results")
    return {"first": first, "second": second, "compare_button": compare_button, "cards": cards,
            "background": background, "move_button": move_button, "moved": moved}  # fmt: skip


def _connect(on: SimpleNamespace, examples: Sequence[tuple[Path, Path]]) -> None:
    """Says what each component of the page does when a visitor touches it."""
    object_inputs = [on.file, on.editor, on.grow, on.mask]
    inputs = [*object_inputs, on.first, on.second]
    loaded = [on.file, on.editor, on.mask, on.message, on.cards, on.moved]
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    working: dict[str, Any] = {
        "api_visibility": "private",
        "show_progress": "full",
        "concurrency_limit": 1,
        "concurrency_id": "models",
    }

    def on_example(index: int) -> tuple[Any, ...]:
        image, its_mask = examples[index]
        path, in_editor, _, *cleared = on_image(str(image))
        return path, in_editor, str(its_mask), *cleared

    touched = [on.editor.input, on.grow.input, on.mask.upload, on.mask.clear]
    opened = gr.on([on.file.upload, on.file.clear], on_image, on.file, loaded, **private)
    opened.then(on_object, object_inputs, on.understood, **private)
    taken = on.shelf.click(on_example, on.shelf, loaded, **private)
    taken.then(on_object, object_inputs, on.understood, **private)
    gr.on(touched, on_object, object_inputs, on.understood, trigger_mode="always_last", **private)
    on.compare_button.click(compare, inputs, on.cards, **working)
    on.move_button.click(move_object, [*inputs, on.background], on.moved, **working)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves the page; see the module's head."""
    parser = argparse.ArgumentParser(prog="python demo/app.py", description="Two checkpoints on one image.")
    parser.add_argument("--plain", default=os.getenv("HF_PGG_PLAIN"), help="checkpoint trained without guidance")
    parser.add_argument("--guided", default=os.getenv("HF_PGG_GUIDED"), help="checkpoint trained with guidance")
    parser.add_argument(
        "--others", nargs="*", default=os.getenv("HF_PGG_OTHERS", "").split(), help="more checkpoints to offer"
    )
    parser.add_argument("--host", default=os.getenv("GRADIO_SERVER_NAME", LOOPBACK[0]), help="interface (%(default)s)")
    parser.add_argument("--port", type=int, help="port (the first free one from 7860)")
    args = parser.parse_args(arguments)
    logging.disable_progress_bar()
    scenes()  # cached: the first visitor does not wait for them
    try:
        labels = [load_classifier(name).labels for name in (args.plain, args.guided) if name]
    except Refused as refusal:
        raise SystemExit(str(refusal)) from refusal
    if len(labels) < 2:
        print(HOW_TO_GET_CHECKPOINTS, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        fits = bool(labels) and all(set(names.values()) == set("0123456789") for names in labels)
        page = build_page(
            args.plain,
            args.guided,
            args.others,
            any_checkpoint=args.host in LOOPBACK,
            examples=example_digits(Path(folder)) if fits else (),
        )
        serve(page, server_name=args.host, server_port=args.port)


def serve(page: gr.Blocks, **options: Any) -> None:
    """Launches the page with what it is safe with: limited uploads, system fonts, no telemetry, no tunnel, no API."""
    page.queue(max_size=20).launch(
        share=False,
        max_file_size=MAX_UPLOAD,
        # names of fonts, where gradio's default theme has addresses of them
        theme=gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ).set(
            # the defaults of these fall short of a contrast of 4.5 to 1
            button_primary_background_fill="*primary_600",
            button_primary_background_fill_dark="*primary_600",
            block_info_text_color="*neutral_600",
            block_info_text_color_dark="*neutral_300",
        ),
        css_paths=HERE / "page.css",
        footer_links=["gradio"],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        **options,
    )


if __name__ == "__main__":
    main()
