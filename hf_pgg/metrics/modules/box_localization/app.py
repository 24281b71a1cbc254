"""The page of this Space."""

from hf_pgg.metrics import box_localization_path
from hf_pgg.metrics.modules.page import page

EXAMPLE = {
    "predictions": [[[0, 0, 0, 0], [0, 1, 0.9, 0], [0, 0.8, 1, 0], [0, 0, 0, 0]]],
    "boxes": [[[50, 40, 100, 80]]],
    "sizes": [[200, 160]],
    "correct": [True],
}

demo = page(box_localization_path(), EXAMPLE)

if __name__ == "__main__":
    demo.launch()
