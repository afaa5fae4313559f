"""sRGB to CIELAB."""

import numpy as np
import pytest

from compositional_prompts.enhancement.colors.cielab import to_cielab


# Values of IEC 61966-2-1 primaries under D65, as colorimetry tables print them.
@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.2408, 80.0925, 67.2032)),
        ((0, 255, 0), (87.7347, -86.1827, 83.1793)),
        ((0, 0, 255), (32.2970, 79.1875, -107.8602)),
        ((128, 128, 128), (53.5850, 0, 0)),
        ((1, 1, 1), (0.2742, 0, 0)),
    ],
)
def test_known_values(rgb, lab):
    assert to_cielab(np.array(rgb, dtype=np.uint8)) == pytest.approx(lab, abs=0.02)


def test_against_the_formula_in_double_precision():
    rgb = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)

    def scalar(r, g, b):
        linear = [
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
            for v in (r / 255, g / 255, b / 255)
        ]
        rows = (
            (0.4124564, 0.3575761, 0.1804375),
            (0.2126729, 0.7151522, 0.0721750),
            (0.0193339, 0.1191920, 0.9503041),
        )
        xyz = [sum(m * v for m, v in zip(row, linear, strict=True)) for row in rows]
        x, y, z = (
            t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116
            for t in (xyz[0] / 0.95047, xyz[1], xyz[2] / 1.08883)
        )
        return 116 * y - 16, 500 * (x - y), 200 * (y - z)

    expected = [[scalar(*map(float, pixel)) for pixel in row] for row in rgb]
    found = to_cielab(rgb)
    assert found.shape == (5, 7, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="uint8, found float64"):
        to_cielab(np.zeros((2, 3)))
