"""The page of this Space."""

from hf_pgg.metrics import pixel_average_precision_path
from hf_pgg.metrics.modules.page import page

EXAMPLE = {
    "predictions": [[[0, 0, 0, 0], [0, 1, 0.9, 0], [0, 0.8, 0.2, 0], [0, 0, 0, 0]]],
    "references": [[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]],
}

demo = page(pixel_average_precision_path(), EXAMPLE)

if __name__ == "__main__":
    demo.launch()
