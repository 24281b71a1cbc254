"""The demo page: what its buttons answer, how it is served, and, in a headless Chromium, what a visitor sees."""

import contextlib
import importlib
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import actions
import experiment
import numpy as np
import pytest
import torch
import yaml
from experiment import Classifier
from PIL import Image

from hf_pgg.data.preprocessing import InputSpec
from tests.demo.files import REFUSALS, disc, iou, write_checkpoints, write_files

pytest.importorskip("gradio", reason="the demo page needs `pip install -e '.[demo]'`")
app = importlib.import_module("app")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, processor):
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"), processor)


# ---------------------------------------------------------------------------------------------- the page's functions


class ReaderOfOnePlace(torch.nn.Module):
    """Says which of four grey levels one place of the image has: a classifier of whatever is there."""

    def __init__(self, row, column):
        super().__init__()
        self.place = (row, column)
        self.level = torch.nn.Parameter(torch.tensor([0.0, 85.0, 170.0, 255.0]))

    def forward(self, pixel_values):
        grey = pixel_values[:, :, self.place[0], self.place[1]].mean(1, keepdim=True)
        return SimpleNamespace(logits=-((grey - self.level) ** 2) / 500)


@pytest.fixture
def readers(monkeypatch):
    """Two classifiers in place of checkpoints: `plain` reads a corner, `guided` the middle of the object."""
    spec = InputSpec((60, 90), (60, 90), (0.0,) * 3, (1.0,) * 3, scale=1.0)
    labels = {0: "night", 1: "dusk", 2: "day", 3: "<img src=x onerror=alert(1)>"}
    places = {"plain": (3, 3), "guided": (30, 60)}
    loaded = {name: Classifier(name, ReaderOfOnePlace(*place), spec, labels) for name, place in places.items()}
    monkeypatch.setattr(actions, "load_classifier", loaded.__getitem__)


def test_moving_shows_which_answers_were_the_backgrounds(readers, files):
    html = actions.move_object(str(files / "good.png"), None, False, str(files / "mask.png"), "plain", "guided", None)
    counts = [int(count) for count in re.findall(r'class="count">(\d+) of 10', html)]
    assert counts[1] == 10 and counts[0] < 10
    assert html.count("chip holds") == sum(counts) and html.count("chip changes") == 20 - sum(counts)


def test_a_background_of_the_visitors_own_comes_first(readers, files):
    arguments = (str(files / "good.png"), None, False, str(files / "mask.png"), "plain", "guided")
    html = actions.move_object(*arguments, str(files / "good.jpg"))
    assert re.findall(r'<th scope="col">(\w+)', html)[:2] == ["yours", "astronaut"]
    assert "clip.mp4 is a clip" in actions.move_object(*arguments, str(files / "clip.mp4"))


def test_the_cards_show_answers_and_shares_of_both(readers, files):
    html = actions.compare(str(files / "good.png"), None, False, str(files / "mask.png"), "plain", "guided")
    assert "Plain: <b>night</b>" in html and "Guided: <b>day</b>" in html
    assert [int(share) for share in re.findall(r"<b>(\d+) %</b> of its input gradient", html)] == [0, 100]
    assert html.count('src="data:image/jpeg;base64,') == 3


def test_what_checkpoints_and_visitors_name_is_escaped(readers, files, tmp_path):
    hostile = shutil.copy(files / "text.png", tmp_path / "<b>.png")
    for html in (
        actions.compare(str(files / "good.png"), None, False, str(files / "mask.png"), "plain", "guided"),
        actions.on_image(str(hostile))[3],
    ):
        assert "<img src=x" not in html and "<b>.png" not in html and "&lt;" in html


def test_a_refused_image_clears_the_old_one_and_says_why(files):
    path, editor, mask, message, *results = actions.on_image(str(files / "text.png"))
    assert path is editor is mask is None and results == ["", ""]
    assert 'role="alert"' in message and "text.png is not an image" in message
    path, editor, _, message, *_ = actions.on_image(str(files / "good.png"))
    assert path == str(files / "good.png") and editor["background"].shape == (320, 480, 3) and message == ""


def test_the_object_is_uploaded_else_painted_else_guessed(files):
    image = experiment.read_image(files / "good.png")
    layer = np.zeros((60, 90, 4), np.uint8)
    layer[28:33, 55:65, 3] = 255
    editor = {"layers": [layer]}
    assert (actions.the_object(image, editor, True, str(files / "mask.png"))[0] == disc()).all()
    grown, how = actions.the_object(image, editor, True, None)
    assert iou(grown, disc()) > 0.9 and "Grown" in how
    exact, how = actions.the_object(image, editor, False, None)
    assert (exact == (layer[..., 3] > 0)).all() and "Exactly" in how
    assert "guess" in actions.the_object(image, {"layers": []}, True, None)[1]


@pytest.mark.parametrize("button", [actions.compare, actions.move_object])
def test_a_button_pressed_too_early_says_what_is_missing(button, files):
    rest = (None,) if button is actions.move_object else ()
    assert "There is no image yet" in button(None, None, True, None, "plain", "guided", *rest)
    assert "Name two checkpoints" in button(str(files / "good.png"), None, True, None, "plain", "", *rest)


# ---------------------------------------------------------------------------------------------- serving it


def dropdowns(page):
    return [block for block in page.blocks.values() if type(block).__name__ == "Dropdown"]


def test_visitors_of_a_public_page_choose_among_the_owners_checkpoints(checkpoints, monkeypatch):
    served = []
    monkeypatch.setattr(app, "serve", lambda page, **options: served.append((page, options)))
    names = [str(checkpoints / "plain"), str(checkpoints / "guided")]
    app.main(["--plain", names[0], "--guided", names[1], "--others", "owner/other"])
    app.main(["--plain", names[0], "--guided", names[1], "--host", "0.0.0.0"])
    (private, local), (public, _) = served
    assert local["server_name"] == "127.0.0.1"
    assert [box.value for box in dropdowns(private)] == names
    assert [value for _, value in dropdowns(private)[0].choices] == [*names, "owner/other"]
    assert all(box.allow_custom_value for box in dropdowns(private))
    assert not any(box.allow_custom_value for box in dropdowns(public))


def test_without_checkpoints_the_page_says_how_to_get_two(monkeypatch, capsys):
    served = []
    for name in ("HF_PGG_PLAIN", "HF_PGG_GUIDED", "HF_PGG_OTHERS", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(app, "serve", lambda page, **options: served.append(page))
    app.main([])
    assert "accelerate launch recipes/train_cls.py --compare" in capsys.readouterr().out
    shown = [str(getattr(block, "value", "")) for block in served[0].blocks.values()]
    assert any("accelerate launch recipes/train_cls.py --compare" in text for text in shown)


def test_a_checkpoint_that_cannot_be_loaded_stops_the_command(tmp_path):
    with pytest.raises(SystemExit, match="is not a checkpoint: it holds no config"):
        app.main(["--plain", str(tmp_path)])


def test_the_space_installs_what_the_library_needs():
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "demo" / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["dependencies"]
    front = yaml.safe_load((ROOT / "demo" / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio" and (ROOT / "demo" / front["app_file"]).is_file()
    (needed,) = [name for name in project["optional-dependencies"]["demo"] if name.startswith("gradio")]
    assert int(front["sdk_version"].split(".")[0]) >= int(needed.removeprefix("gradio>="))


# ---------------------------------------------------------------------------------------------- in a browser

GUARDED = """
import runpy, socket, sys
connect = socket.socket.connect
def guarded(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("LEFT THE MACHINE:", address, flush=True)
        raise OSError("no network in this test")
    return connect(self, address)
socket.socket.connect = guarded
sys.argv = sys.argv[1:]
sys.path.insert(0, "demo")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")
def served(checkpoints, tmp_path_factory):
    """The page's address, served by the command itself in a process that cannot connect beyond this machine."""
    log = tmp_path_factory.mktemp("log") / "app.log"
    with log.open("w") as out:
        names = ["--plain", checkpoints / "plain", "--guided", checkpoints / "guided"]
        process = subprocess.Popen(
            [sys.executable, "-c", GUARDED, "demo/app.py", *map(str, names)],
            cwd=ROOT, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        address = None
        while address is None:
            assert process.poll() is None, log.read_text()
            address = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        urllib.request.urlopen(address[0]).close()
        yield address[0]
    finally:
        process.terminate()
        process.wait()
    assert "LEFT THE MACHINE" not in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    playwright = pytest.importorskip("playwright.sync_api", reason="`pip install playwright` drives the browser")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium: `apt-get install chromium`")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=chromium, args=FLAGS, headless=True
        )
        context.set_default_timeout(120_000)
        yield context
        context.close()


@pytest.fixture
def visit(browser, served):
    """A fresh page, and the addresses that it asked for."""
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served)
    page.wait_for_selector("#image input[type=file]", state="attached")
    yield page
    page.close()
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []


def choose(page, where, file):
    page.set_input_files(f"#{where} input[type=file]", file)


@pytest.mark.browser
def test_a_visitor_compares_two_checkpoints_and_moves_the_object(visit, files, tmp_path):
    choose(visit, "image", files / "good.png")
    visit.wait_for_selector("#object img")
    assert "A guess from the middle" in visit.inner_text("#understood")

    canvas = visit.locator("#editor canvas").first.bounding_box()
    middle = (canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2)
    visit.mouse.move(*middle)
    visit.mouse.down()
    visit.mouse.move(middle[0] + 30, middle[1] + 5, steps=5)
    visit.mouse.up()
    visit.get_by_text("Grown from your paint").wait_for()

    visit.get_by_role("button", name="Compare the two").click()
    visit.wait_for_selector("#answer-cards")
    assert visit.locator("#answer-cards .card").count() == 3
    assert visit.locator("#answer-cards .ranking").count() == 2

    visit.get_by_role("button", name="Move the object to another background").click()
    visit.wait_for_selector("#moved")
    assert visit.locator("#moved .chip").count() == 20
    assert re.search(r"\d+ of 10", visit.inner_text("#moved .verdicts"))
    visit.screenshot(path=tmp_path / "page.png", full_page=True)
    with Image.open(tmp_path / "page.png") as shot:
        assert shot.height > 1200 and len(shot.convert("RGB").getcolors(2**24)) > 1000


@pytest.mark.browser
@pytest.mark.parametrize("name", ["text.png", "truncated.jpg", "huge.png", "clip.mp4", "moving.gif"])
def test_a_visitor_with_a_wrong_file_is_told_so_on_the_page(visit, files, name):
    choose(visit, "image", files / name)
    alert = visit.get_by_role("alert")
    alert.wait_for()
    assert name in alert.inner_text() and REFUSALS[name] in alert.inner_text()
    choose(visit, "image", files / "good.png")  # and can go on with a right one
    visit.wait_for_selector("#object img")
    assert visit.get_by_role("alert").count() == 0


@pytest.mark.browser
def test_a_button_pressed_too_early_answers_beside_it(visit):
    visit.get_by_role("button", name="Compare the two").click()
    visit.locator("#cards .notice").get_by_text("There is no image yet").wait_for()


@pytest.mark.browser
def test_an_upload_above_the_limit_is_refused_on_the_page(visit, files):
    choose(visit, "image", files / "big.png")
    visit.get_by_text("exceed the maximum allowed size of 10").wait_for()
    assert visit.locator("#object").count() == 0
