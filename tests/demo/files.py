"""Images, wrong files and tiny checkpoints for the tests of the demo page."""

import numpy as np
from PIL import Image

from tests.conftest import tiny_model

RNG = np.random.default_rng(0)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def disc(shape=(60, 90), centre=(30, 60), radius=14):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2


def disc_image(mask):
    image = RNG.integers(0, 10, (*mask.shape, 3), dtype=np.uint8)
    image[mask] += np.uint8(150)
    return image


def write_files(folder):
    """Files that visitors drop: a good image with its mask, and one of each kind that is refused."""
    mask = disc()
    Image.fromarray(disc_image(mask)).save(folder / "good.png")
    Image.fromarray(disc_image(mask)).save(folder / "good.jpg")
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "text.png").write_text("a recipe for apple cake, renamed\n" * 20)
    Image.new("1", (20_000, 10_000)).save(folder / "huge.png")  # 200 megapixels in 25 KB
    Image.new("1", (10_000, 6_000)).save(folder / "large.png")
    (folder / "clip.mp4").write_bytes(b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + bytes(2000))
    frames = [Image.fromarray(RNG.integers(0, 255, (20, 20), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (3, 400)).save(folder / "thin.png")
    (folder / "empty.png").write_bytes(b"")
    for kind in ("png", "jpg"):
        whole = (folder / f"good.{kind}").read_bytes()
        (folder / f"truncated.{kind}").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "big.png").write_bytes(RNG.bytes(11_000_000))
    return folder


REFUSALS = {
    "text.png": "is not an image, whatever its name says",
    "empty.png": "is not an image, whatever its name says",
    "truncated.jpg": "is broken",
    "truncated.png": "is broken",
    "huge.png": "50 megapixels are the most",
    "large.png": "has 10000 x 6000 pixels; 50 megapixels are the most",
    "clip.mp4": "is a clip",
    "moving.gif": "is a clip",
    "thin.png": "too small",
}


def write_checkpoints(folder, processor):
    """Two tiny checkpoints, untrained, in the folders `plain` and `guided`."""
    for name, seed in (("plain", 0), ("guided", 1)):
        tiny_model("convnext", seed=seed).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder
