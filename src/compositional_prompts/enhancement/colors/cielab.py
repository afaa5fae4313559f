"""sRGB to CIELAB, where distance is close to how different two colours look."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# IEC 61966-2-1: linear sRGB to CIE XYZ, here divided by the D65 white point (2 degree observer),
# so that white is (1, 1, 1).
_WHITE = np.array([0.95047, 1.0, 1.08883])
_TO_XYZ = (
    np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    / _WHITE[:, None]
).astype(np.float32)
_EPSILON = (6 / 29) ** 3


def _linear(level: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


_LINEAR = _linear(np.arange(256) / 255).astype(np.float32)


def to_cielab(rgb: ArrayLike) -> NDArray[np.float32]:
    """Convert sRGB to CIELAB (CIE 15: L* in 0..100, D65 white).

    Args:
        rgb: uint8 ``[..., 3]``.

    Returns:
        float32 ``[..., 3]``: L*, a*, b*.

    Raises:
        TypeError: the values are not uint8.
    """
    levels = np.asarray(rgb)
    if levels.dtype != np.uint8:
        raise TypeError(f"sRGB levels must be uint8, found {levels.dtype}.")
    xyz = _LINEAR[levels] @ _TO_XYZ.T
    f = np.where(xyz > _EPSILON, np.cbrt(xyz), xyz * np.float32((29 / 6) ** 2 / 3) + 4 / 29)
    f = f.astype(np.float32)
    lightness = 116 * f[..., 1] - 16
    return np.stack(
        [lightness, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1
    )
