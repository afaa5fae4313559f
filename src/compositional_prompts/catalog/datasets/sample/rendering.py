"""Draws one shoe as a product photo: side view on a white ground, 136 x 102 pixels.

A shoe is first a `_Shape`: polygons and lines in shoe units (x from heel 0 to toe 1, y up from
the ground, 1 is the foot's length). It is painted at twice the size and reduced, which smooths
the edges. Light and texture live in one grey plane ("light", 128 is neutral) that look-up tables
turn into each tone, so that a photo costs a few whole-image operations.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from compositional_prompts.catalog.datasets.sample.appearance import COLORS, Shoe

WIDTH: Final = 136
HEIGHT: Final = 102

_Points = npt.NDArray[np.float64]
_Plane = npt.NDArray[np.float32]
_Light = npt.NDArray[np.uint8]
_Rgb = tuple[int, int, int]

_SCALE: Final = 2
_W: Final = WIDTH * _SCALE
_H: Final = HEIGHT * _SCALE
# Room round the shoe, in double-size pixels, for its shadow, hair and bows.
_MARGIN: Final = 24

_BASE: Final[Mapping[str, _Rgb]] = MappingProxyType(
    {
        "black": (34, 34, 37),
        "white": (243, 243, 242),
        "brown": (104, 62, 34),
        "red": (198, 28, 36),
        "blue": (36, 82, 190),
        "green": (38, 132, 62),
        "yellow": (242, 208, 36),
        "pink": (244, 138, 178),
        "grey": (134, 137, 141),
        "orange": (240, 122, 24),
        "purple": (112, 52, 156),
        "beige": (216, 192, 152),
        "cream": (236, 228, 208),
        "tan": (196, 152, 106),
        "darkbrown": (66, 42, 28),
        "gum": (184, 124, 68),
        "wood": (200, 150, 96),
        "cork": (190, 146, 100),
        "silver": (196, 198, 204),
        "gold": (204, 164, 72),
    }
)


# ---------------------------------------------------------------- geometry


@dataclass(slots=True)
class _Shape:
    """Parts of a shoe in shoe units; tones are names that `_tones` resolves."""

    upper: list[_Points] = field(default_factory=list)
    behind: list[tuple[_Points, str]] = field(default_factory=list)
    panels: list[tuple[_Points, str]] = field(default_factory=list)
    soles: list[tuple[_Points, str]] = field(default_factory=list)
    seams: list[_Points] = field(default_factory=list)
    stitches: list[_Points] = field(default_factory=list)
    laces: list[_Points] = field(default_factory=list)
    zips: list[_Points] = field(default_factory=list)
    cuffs: list[_Points] = field(default_factory=list)
    velcros: list[_Points] = field(default_factory=list)
    buckles: list[tuple[float, float]] = field(default_factory=list)
    studs: list[tuple[float, float]] = field(default_factory=list)
    bows: list[tuple[float, float]] = field(default_factory=list)

    def extent(self) -> tuple[_Points, _Points]:
        """Return the lower-left and upper-right corner of all areas."""
        areas = [*self.upper, *(p for p, _ in self.behind), *(p for p, _ in self.soles)]
        points = np.concatenate(areas)
        return points.min(axis=0), points.max(axis=0)


_STEPS: Final = 6
_T: Final = np.arange(_STEPS) / _STEPS
_BLEND: Final = 0.5 * np.stack(
    [
        -_T + 2 * _T**2 - _T**3,
        2 - 5 * _T**2 + 3 * _T**3,
        _T + 4 * _T**2 - 3 * _T**3,
        -(_T**2) + _T**3,
    ],
    axis=1,
)


def _curve(*points: tuple[float, float]) -> _Points:
    """Return a smooth (Catmull-Rom) line through the points, shape (n, 2)."""
    knots = np.array([points[0], *points, points[-1]], dtype=np.float64)
    windows = np.stack([knots[:-3], knots[1:-2], knots[2:-1], knots[3:]], axis=1)
    line = np.einsum("tk,skc->stc", _BLEND, windows).reshape(-1, 2)
    return np.concatenate([line, knots[-1:]])


def _line(*points: tuple[float, float] | _Points) -> _Points:
    return np.array(points, dtype=np.float64)


def _join(*lines: _Points) -> _Points:
    return np.concatenate(lines)


def _ring(x: float, y: float, rx: float, ry: float) -> _Points:
    """Return an ellipse as a polygon."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _band(line: _Points, width: float) -> _Points:
    """Return the polygon of a strip of a width along a line."""
    along = np.gradient(line, axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) * (width / 2)
    return np.concatenate([line + normal, (line - normal)[::-1]])


_HEEL_RISE: Final[Mapping[str, float]] = MappingProxyType(
    {"flat": 0.0, "low": 0.09, "medium": 0.2, "high": 0.34}
)


@dataclass(frozen=True, slots=True)
class _Last:
    """The form a shoe is built on: heel rise, sole thickness, girth and toe shape."""

    rise: float
    thick: float
    girth: float
    point: float

    def bed(self, x: _Points) -> _Points:
        """Return the height of the foot bed at x."""
        slope = ((0.68 - x) / 0.5).clip(0, 1)
        slope = slope * slope * (3 - 2 * slope)
        spring = 0.03 * ((x - 0.75) / 0.25).clip(0, 1) ** 2
        return np.asarray(self.thick + self.rise * slope + spring)

    def bed_at(self, x: float) -> float:
        """Return `bed` of one x, without an array's overhead."""
        slope = min(1.0, max(0.0, (0.68 - x) / 0.5))
        slope = slope * slope * (3 - 2 * slope)
        spring: float = 0.03 * min(1.0, max(0.0, (x - 0.75) / 0.25)) ** 2
        return self.thick + self.rise * slope + spring

    def at(self, x: float, over: float) -> tuple[float, float]:
        """Return the point `over` above the bed at x; pointed toes are lower and longer."""
        toe = max(0.0, (x - 0.7) / 0.3)
        over *= self.girth * (1 - 0.38 * self.point * toe)
        return x + 0.05 * self.point * toe, self.bed_at(x) + over

    def curve(self, *points: tuple[float, float]) -> _Points:
        """Return a smooth line through points given as (x, height above the bed)."""
        return _curve(*(self.at(x, over) for x, over in points))

    def area(self, *points: tuple[float, float]) -> _Points:
        """Return the area between the bed and a smooth line above it."""
        top = self.curve(*points)
        return self.filled(top)

    def filled(self, top: _Points) -> _Points:
        """Close a line that runs from heel to toe along the bed below it."""
        x = np.linspace(top[-1, 0], top[0, 0], 16)
        return np.concatenate([top, np.stack([x, self.bed(x)], axis=1)])

    def strip(self, start: float, end: float, low: float, high: float) -> _Points:
        """Return the strip along the bed from `low` to `high` above it."""
        x = np.linspace(start, end + 0.05 * self.point, 20)
        bed = self.bed(x)
        return np.concatenate(
            [np.stack([x, bed + high], axis=1), np.stack([x, bed + low], axis=1)[::-1]]
        )


def _last(shoe: Shoe, thick: float) -> _Last:
    style = shoe.style
    return _Last(
        rise=_HEEL_RISE[shoe.heel_height] * (0.92 + 0.16 * style.height),
        thick=thick * (0.8 + 0.4 * style.sole),
        girth=0.92 + 0.16 * style.girth,
        point=style.toe,
    )


def _slab(shape: _Shape, last: _Last, tone: str) -> None:
    """Add a flat outsole with rounded ends."""
    end = 1.02 + 0.05 * last.point
    sole = _join(
        last.strip(-0.02, 1.01, 0.0, 0.015)[:20],
        _curve((end, last.thick + 0.02), (end - 0.02, 0.02), (end - 0.09, 0.0)),
        _curve((0.04, 0.0), (-0.02, 0.02), (-0.03, last.thick * 0.7)),
    )
    shape.soles.append((sole, tone))


def _heeled(shape: _Shape, last: _Last, tone: str, heel: str, tip: float, width: float) -> None:
    """Add a thin outsole and a heel that narrows from `width` to `tip` at the ground."""
    back = last.bed_at(0.02) - last.thick
    front = last.bed_at(width) - last.thick
    lean = 0.3 * (width - tip)
    block = _join(
        _curve((-0.005, back + 0.01), (0.015 + lean * 0.6, back * 0.5), (0.02 + lean, 0.0)),
        _curve((0.02 + lean + tip, 0.0), (0.05 + lean * 0.7 + tip, back * 0.5), (width, front)),
    )
    shape.soles.append((block, heel))
    shape.soles.append((last.strip(-0.01, 1.01, -last.thick, 0.012), tone))


def _sole(shape: _Shape, shoe: Shoe, last: _Last) -> None:
    """Add the sole that fits the heel: a slab, a block heel, or a slim one."""
    if shoe.heel_height == "flat":
        _slab(shape, last, "sole")
    elif shoe.heel_height == "high":
        slim = shoe.style.detail % 2 == 0
        _heeled(shape, last, "sole", "sole", 0.05 if slim else 0.15, 0.2 if slim else 0.24)
    else:
        _heeled(shape, last, "sole", "sole", 0.22, 0.28)


def _laced(shape: _Shape, top: tuple[float, float], bottom: tuple[float, float], rows: int) -> None:
    """Add crossing laces down the front edge from `top` to `bottom`."""
    line = np.linspace(top, bottom, rows)
    along = line[-1] - line[0]
    along = along / np.linalg.norm(along)
    # Into the shoe: the right of the way down is outside, so the laces lie to its left.
    inward = np.array([along[1], -along[0]]) * 0.085
    if inward[0] > 0:
        inward = -inward
    step = (line[1] - line[0]) * 0.45
    for point in line:
        shape.laces.append(np.stack([point + inward * -0.12, point + inward + step]))
    shape.laces.append(
        _curve(
            tuple(line[0] + inward * 0.4),
            tuple(line[0] + inward * 1.3 + (0.02, 0.03)),
            tuple(line[0] + inward * 1.5 + (0.04, -0.05)),
        )
    )


def _sneaker(shoe: Shoe) -> _Shape:
    last, shape = _last(shoe, 0.1), _Shape()
    shape.behind.append(
        (
            _curve(
                *(
                    last.at(x, o)
                    for x, o in [(0.05, 0.2), (0.08, 0.31), (0.2, 0.3), (0.36, 0.34), (0.36, 0.2)]
                )
            ),
            "lining",
        )
    )
    slip = shoe.closure == "slip-on"
    tongue = [(0.34, 0.31), (0.41, 0.32)] if slip else [(0.34, 0.33), (0.37, 0.41), (0.42, 0.39)]
    shape.upper.append(
        last.area(
            (0.01, 0.02), (0.0, 0.12), (0.03, 0.24), (0.04, 0.3), (0.08, 0.31), (0.16, 0.25),
            (0.26, 0.26), *tongue, (0.52, 0.3), (0.64, 0.22), (0.78, 0.165), (0.9, 0.14),
            (0.98, 0.09), (1.0, 0.01),
        )
    )  # fmt: skip
    detail = shoe.style.detail
    if detail in (0, 1):
        shape.panels.append((last.area((0.8, 0.0), (0.8, 0.1), (0.86, 0.2), (1.1, 0.1)), "sole"))
    if detail in (2, 3):
        for x in (0.44, 0.52, 0.6):
            stripe = last.curve((x, -0.02), (x - 0.05, 0.12), (x - 0.06, 0.24))
            shape.panels.append((_band(stripe, 0.035), "accent"))
    if detail in (1, 4, 5):
        shape.panels.append(
            (last.area((-0.05, 0.1), (0.03, 0.22), (0.12, 0.2), (0.2, 0.1), (0.24, 0.0)), "accent")
        )
    if detail in (4, 5):
        swoosh = last.curve((0.36, 0.2), (0.42, 0.07), (0.54, 0.09), (0.72, 0.16))
        shape.panels.append((_band(swoosh, 0.04), "accent"))
    if shoe.closure == "lace-up":
        _laced(shape, last.at(0.41, 0.37), last.at(0.63, 0.22), 5)
    elif shoe.closure == "velcro":
        for x, top in ((0.45, 0.35), (0.57, 0.27)):
            shape.velcros.append(
                _band(last.curve((x - 0.1, 0.1), (x - 0.05, top - 0.08), (x, top)), 0.085)
            )
    else:
        gore = last.area((0.28, 0.15), (0.3, 0.28), (0.4, 0.33), (0.42, 0.16))
        shape.panels.append((gore, "dark"))
    _slab(shape, last, "sole")
    shape.soles.append((last.strip(-0.02, 1.0, -0.045, -0.02), "trim"))
    return shape


def _oxford(shoe: Shoe) -> _Shape:
    last, shape = _last(shoe, 0.035), _Shape()
    if shoe.heel_height == "flat":
        last = _Last(0.045, last.thick, last.girth, last.point)
    shape.behind.append(
        (last.curve((0.05, 0.15), (0.07, 0.27), (0.2, 0.26), (0.35, 0.31), (0.33, 0.2)), "lining")
    )
    shape.upper.append(
        last.area(
            (0.01, 0.01), (0.0, 0.1), (0.03, 0.22), (0.06, 0.265), (0.14, 0.225), (0.25, 0.225),
            (0.34, 0.31), (0.4, 0.325), (0.5, 0.265), (0.62, 0.2), (0.76, 0.165), (0.9, 0.13),
            (0.98, 0.075), (1.0, 0.01),
        )
    )  # fmt: skip
    cap = last.curve((0.74, 0.18), (0.775, 0.09), (0.77, 0.0))
    shape.seams.append(cap)
    shape.seams.append(last.curve((0.3, 0.25), (0.36, 0.15), (0.5, 0.11), (0.6, 0.13), (0.64, 0.2)))
    shape.seams.append(last.curve((0.2, 0.22), (0.24, 0.1), (0.3, 0.0)))
    if shoe.style.detail % 2:
        shape.stitches.append(last.curve((0.72, 0.18), (0.75, 0.09), (0.745, 0.0)))
        shape.stitches.append(last.curve((0.33, 0.23), (0.38, 0.13), (0.5, 0.085), (0.62, 0.1)))
    if shoe.style.detail >= 4:
        shape.panels.append((last.area((0.77, 0.0), (0.78, 0.09), (0.75, 0.2), (1.1, 0.2)), "dark"))
    _laced(shape, last.at(0.41, 0.3), last.at(0.6, 0.2), 4)
    _heeled(shape, last, "sole", "sole", 0.23, 0.27)
    return shape


def _low_cut(shape: _Shape, last: _Last) -> None:
    """Add the upper of a loafer or a boat shoe, with its moccasin seam and its opening."""
    shape.behind.append(
        (last.curve((0.03, 0.1), (0.06, 0.25), (0.2, 0.23), (0.4, 0.24), (0.5, 0.27), (0.48, 0.12)),
         "lining")
    )  # fmt: skip
    shape.upper.append(
        last.area(
            (0.01, 0.01), (0.0, 0.1), (0.02, 0.2), (0.05, 0.235), (0.12, 0.19), (0.28, 0.155),
            (0.42, 0.175), (0.49, 0.275), (0.55, 0.285), (0.66, 0.225), (0.78, 0.185),
            (0.9, 0.15), (0.98, 0.09), (1.0, 0.01),
        )
    )  # fmt: skip
    shape.seams.append(
        last.curve((0.54, 0.2), (0.66, 0.165), (0.8, 0.125), (0.9, 0.11), (0.95, 0.13))
    )


def _loafer(shoe: Shoe) -> _Shape:
    last, shape = _last(shoe, 0.035), _Shape()
    if shoe.heel_height == "flat":
        last = _Last(0.04, last.thick, last.girth, last.point)
    _low_cut(shape, last)
    saddle = _join(
        last.curve((0.47, 0.0), (0.48, 0.12), (0.52, 0.31)),
        last.curve((0.62, 0.27), (0.6, 0.12), (0.64, 0.0)),
    )
    shape.panels.append((saddle, "dark"))
    shape.seams.append(last.curve((0.47, 0.0), (0.48, 0.12), (0.52, 0.28)))
    shape.seams.append(last.curve((0.62, 0.24), (0.6, 0.12), (0.64, 0.0)))
    if shoe.closure == "buckle":
        shape.buckles.append(last.at(0.55, 0.17))
    else:
        shape.panels.append((_band(last.curve((0.525, 0.18), (0.585, 0.17)), 0.03), "lining"))
        if shoe.style.detail % 2:
            shape.studs += [last.at(0.53, 0.22), last.at(0.56, 0.215), last.at(0.59, 0.205)]
    _heeled(shape, last, "sole", "sole", 0.22, 0.26)
    return shape


def _boat(shoe: Shoe) -> _Shape:
    last, shape = _last(shoe, 0.06), _Shape()
    _low_cut(shape, last)
    # The leather lace that runs round the collar is what makes it a boat shoe.
    shape.laces.append(last.curve((0.06, 0.17), (0.16, 0.125), (0.3, 0.105), (0.43, 0.12)))
    shape.studs += [last.at(0.06, 0.17), last.at(0.43, 0.12)]
    shape.stitches.append(
        last.curve((0.53, 0.17), (0.66, 0.135), (0.8, 0.095), (0.9, 0.08), (0.96, 0.1))
    )
    shape.laces.append(last.curve((0.48, 0.17), (0.53, 0.25)))
    shape.laces.append(last.curve((0.54, 0.15), (0.585, 0.235)))
    for dx, dy in ((-0.09, 0.04), (0.09, 0.02)):
        x, y = last.at(0.56, 0.26)
        shape.laces.append(_curve((x, y), (x + dx, y + dy), (x + dx * 0.9, y - 0.03), (x, y)))
    _slab(shape, last, "sole")
    return shape


def _ballet(shoe: Shoe, last: _Last, vamp: float) -> _Shape:
    """Return the low-cut upper that flats and heels share; `vamp` is where it closes."""
    shape = _Shape()
    top = [
        (0.01, 0.0), (0.0, 0.08), (0.02, 0.16), (0.045, 0.185), (0.12, 0.15), (0.28, 0.115),
        (0.46, 0.1), (vamp - 0.06, 0.115), (vamp, 0.15), (vamp + 0.06, 0.145),
    ]  # fmt: skip
    toe = [(0.88, 0.115), (0.97, 0.07), (1.0, 0.0)]
    shape.upper.append(last.area(*top, *toe))
    # The far side shows over the near edge: that opening is half of what a pump looks like.
    far = [(x + 0.012, over + 0.05) for x, over in top[3:-2]]
    shape.behind.append((last.area((0.03, 0.1), *far, (vamp + 0.03, 0.1)), "lining"))
    return shape


def _flat(shoe: Shoe) -> _Shape:
    last = _last(shoe, 0.022)
    last = _Last(0.012, last.thick, last.girth, last.point * 0.7)
    shape = _ballet(shoe, last, 0.72)
    if shoe.closure == "buckle":
        strap = last.curve((0.34, 0.04), (0.36, 0.15), (0.42, 0.23), (0.47, 0.22))
        shape.upper.append(_band(strap, 0.05))
        shape.behind.append(
            (_band(last.curve((0.46, 0.22), (0.5, 0.17), (0.5, 0.08)), 0.045), "dark")
        )
        shape.buckles.append(last.at(0.365, 0.13))
    elif shoe.style.detail % 3:
        shape.bows.append(last.at(0.74, 0.15))
    if shoe.style.detail % 2:
        shape.panels.append(
            (last.area((0.83, 0.0), (0.84, 0.1), (0.87, 0.2), (1.1, 0.1)), "accent")
        )
    shape.soles.append((last.strip(-0.005, 1.0, -last.thick, 0.01), "sole"))
    shape.soles.append(
        (_line((0.0, last.thick), (0.2, last.thick), (0.19, -0.012), (0.01, -0.012)), "sole")
    )
    return shape


def _pump(shoe: Shoe) -> _Shape:
    last = _last(shoe, 0.022)
    platform = shoe.style.detail == 5
    if platform:
        last = _Last(last.rise, 0.075, last.girth, last.point)
    shape = _ballet(shoe, last, 0.73)
    if shoe.closure == "buckle":
        x, y = last.at(0.17, 0.34)
        shape.behind.append(
            (_band(_curve((x - 0.15, y), (x, y + 0.045), (x + 0.15, y)), 0.04), "dark")
        )
        shape.upper.append(_band(_curve((x - 0.15, y), (x, y - 0.045), (x + 0.15, y)), 0.045))
        shape.upper.append(
            _band(_curve((x - 0.135, y), (x - 0.13, y - 0.1), last.at(0.05, 0.1)), 0.05)
        )
        shape.buckles.append((x + 0.02, y - 0.045))
    elif shoe.style.detail == 1:
        shape.bows.append(last.at(0.76, 0.15))
    slim = shoe.style.detail not in (2, 4)
    heel = "main" if shoe.style.detail % 2 == 0 else "sole"
    if shoe.heel_height == "high":
        _heeled(shape, last, "sole", heel, 0.035 if slim else 0.14, 0.19)
    else:
        _heeled(shape, last, "sole", heel, 0.06 if slim else 0.16, 0.17)
    return shape


def _sandal(shoe: Shoe) -> _Shape:
    last, shape = _last(shoe, 0.055), _Shape()
    last = _Last(last.rise, last.thick, last.girth, 0.2 * last.point)
    shape.behind.append((last.strip(0.0, 1.0, 0.0, 0.03), "lining"))

    def strap(start: float, crest: float, height: float, width: float) -> None:
        """Add a strap from the sole at `start` up to the instep, its far side behind it."""
        half = width / 2
        rear, front = crest - half, crest + half
        near = last.curve(
            (start - half, 0.0),
            ((start - half + rear) / 2 - 0.01, height * 0.5),
            (rear, height * 0.95),
            (rear + width * 0.25, height * 1.03),
            (front - width * 0.25, height * 0.97),
            (front, height * 0.82),
            ((start + half + front) / 2, height * 0.4),
            (start + half, 0.0),
        )
        shape.upper.append(near)
        far = last.curve(
            (crest, height * 0.95),
            (front + 0.03, height * 0.7),
            (start + half + 0.04, height * 0.3),
            (start + half + 0.05, 0.0),
        )
        shape.behind.append((_band(far, width * 0.5), "dark"))

    if shoe.closure == "slip-on":
        strap(0.82, 0.76, 0.17, 0.13)
        strap(0.58, 0.52, 0.26, 0.14)
    else:
        strap(0.85, 0.78, 0.15, 0.115)
        strap(0.63, 0.52, 0.27, 0.115)
        x, y = last.at(0.2, 0.34)
        shape.behind.append(
            (_band(_curve((x - 0.17, y), (x, y + 0.05), (x + 0.17, y)), 0.055), "dark")
        )
        shape.upper.append(_band(_curve((x - 0.17, y), (x, y - 0.05), (x + 0.17, y)), 0.085))
        shape.upper.append(
            _band(_curve(last.at(0.1, 0.0), last.at(0.05, 0.14), (x - 0.15, y)), 0.09)
        )
        if shoe.style.detail % 2:
            shape.upper.append(
                _band(_curve((x + 0.13, y - 0.03), last.at(0.46, 0.2), last.at(0.54, 0.17)), 0.06)
            )
        if shoe.closure == "velcro":
            shape.velcros.append(_band(_curve((x - 0.06, y - 0.045), (x + 0.1, y - 0.035)), 0.09))
            shape.velcros.append(_band(last.curve((0.6, 0.1), (0.545, 0.22)), 0.1))
        else:
            shape.buckles.append((x + 0.03, y - 0.045))
            if shoe.style.detail < 2:
                shape.buckles.append(last.at(0.6, 0.13))
    if shoe.heel_height in ("low", "medium") and shoe.style.detail % 3:
        wedge = _join(last.strip(-0.02, 1.0, 0.0, 0.012)[:20], _line((0.97, 0.0), (0.0, 0.0)))
        shape.soles.append((wedge, "sole"))
    else:
        _sole(shape, shoe, last)
    return shape


def _clog(shoe: Shoe) -> _Shape:
    last, shape = _last(shoe, 0.085), _Shape()
    last = _Last(last.rise, last.thick, last.girth, 0.15 * last.point)
    shape.behind.append((last.strip(0.0, 0.6, 0.0, 0.03), "lining"))
    shape.behind.append(
        (last.area((0.44, 0.0), (0.39, 0.16), (0.41, 0.3), (0.5, 0.36), (0.62, 0.28)), "lining")
    )
    shape.upper.append(
        last.area(
            (0.5, 0.0), (0.46, 0.12), (0.455, 0.26), (0.5, 0.33), (0.58, 0.335), (0.7, 0.29),
            (0.83, 0.23), (0.94, 0.16), (1.0, 0.08), (1.01, 0.0),
        )
    )  # fmt: skip
    shape.studs += [last.at(x, 0.035) for x in np.linspace(0.54, 0.97, 7).tolist()]
    if shoe.closure == "buckle":
        strap = last.curve((0.56, 0.05), (0.55, 0.2), (0.58, 0.33))
        shape.panels.append((_band(strap, 0.085), "dark"))
        shape.buckles.append(last.at(0.555, 0.19))
    _heeled(shape, last, "sole", "sole", 0.26, 0.34)
    return shape


def _slipper(shoe: Shoe) -> _Shape:
    last, shape = _last(shoe, 0.05), _Shape()
    last = _Last(last.rise, last.thick, last.girth, 0.0)
    backless = shoe.style.detail % 2 == 0
    if backless:
        shape.behind.append((last.strip(0.0, 0.6, 0.0, 0.05), "fluff"))
        shape.upper.append(
            last.area(
                (0.42, 0.0), (0.38, 0.12), (0.38, 0.24), (0.45, 0.31), (0.58, 0.31),
                (0.75, 0.26), (0.9, 0.2), (1.0, 0.12), (1.01, 0.0),
            )
        )  # fmt: skip
        shape.cuffs.append(last.curve((0.43, 0.03), (0.385, 0.13), (0.39, 0.25), (0.45, 0.32)))
        shape.cuffs.append(last.curve((0.02, 0.03), (0.2, 0.03), (0.4, 0.03)))
    else:
        shape.upper.append(
            last.area(
                (0.0, 0.0), (-0.02, 0.1), (0.01, 0.22), (0.1, 0.24), (0.25, 0.22), (0.38, 0.24),
                (0.48, 0.31), (0.6, 0.31), (0.76, 0.26), (0.9, 0.2), (1.0, 0.12), (1.01, 0.0),
            )
        )  # fmt: skip
        shape.cuffs.append(
            last.curve((0.02, 0.23), (0.1, 0.25), (0.25, 0.23), (0.38, 0.25), (0.48, 0.31))
        )
    if shoe.closure == "velcro":
        shape.velcros.append(_band(last.curve((0.56, 0.1), (0.55, 0.2), (0.57, 0.31)), 0.12))
    _slab(shape, last, "sole")
    return shape


def _boot(shoe: Shoe, shaft: float, flare: float) -> _Shape:
    """Return a boot whose shaft ends `shaft` above the heel's bed."""
    last, shape = _last(shoe, 0.05), _Shape()
    last = _Last(last.rise, last.thick, last.girth, 0.8 * last.point)
    base = last.bed_at(0.0)
    top = base + shaft
    back = _curve(
        last.at(0.01, 0.0), last.at(0.0, 0.12), (0.03, base + 0.3), (0.02, base + 0.45),
        (0.02 - flare, base + 0.45 + (shaft - 0.45) * 0.6), (0.025 - flare, top),
    ) if shaft > 0.8 else _curve(
        last.at(0.01, 0.0), last.at(0.0, 0.12), (0.035, base + 0.3), (0.02, top)
    )  # fmt: skip
    front_x = 0.39 + flare
    throat = [(front_x + 0.0, top + 0.0)]
    if shaft > 0.8:
        throat += [(front_x + 0.005, base + 0.45 + (shaft - 0.45) * 0.6), (0.385, base + 0.46)]
    front = _curve(
        *throat, last.at(0.4, 0.39), last.at(0.46, 0.315), last.at(0.57, 0.245),
        last.at(0.72, 0.195), last.at(0.87, 0.155), last.at(0.97, 0.1), last.at(1.0, 0.01),
    )  # fmt: skip
    shape.upper.append(last.filled(_join(back, front)))
    shape.behind.append(
        (_ring((0.025 - flare + front_x) / 2, top, (front_x - 0.025 + flare) / 2, 0.03), "lining")
    )
    middle = (0.03 - flare + front_x) / 2
    if shoe.closure == "lace-up":
        low = last.at(0.55, 0.25)
        rows = 4 + round(shaft * 4)
        shape.seams.append(
            _curve(
                (front_x - 0.12, top), (0.27, base + 0.4), last.at(0.36, 0.2), last.at(0.52, 0.12)
            )
        )
        _laced(shape, (0.385, base + 0.43), low, 4)
        _laced(shape, (front_x - 0.01, top - 0.04), (0.385, base + 0.5), rows - 4)
    elif shoe.closure == "zip":
        shape.zips.append(
            _curve(
                (middle - 0.02, top - 0.02), (middle - 0.03, base + shaft * 0.5), (0.19, base + 0.1)
            )
        )
    elif shoe.closure == "buckle":
        heights = (0.3,) if shaft < 0.8 else (0.3, shaft - 0.16)
        for height in heights:
            y = base + height
            left = 0.0 if height < 0.5 else -0.02 - flare
            right = 0.46 if height < 0.5 else front_x + 0.03
            strap = _curve((left, y - 0.02), (middle, y - 0.03), (right, y + 0.04))
            shape.panels.append((_band(strap, 0.075), "dark"))
            shape.buckles.append((middle, y - 0.025))
    elif shaft < 0.8:
        gore = _join(
            _line((0.1, top + 0.02)),
            _curve((0.12, base + 0.35), (0.2, base + 0.22), (0.28, base + 0.35)),
            _line((0.31, top + 0.02)),
        )
        shape.panels.append((gore, "dark"))
    else:
        shape.seams.append(_line((-0.1, top - 0.09), (0.6, top - 0.09)))
    shape.seams.append(
        last.curve((0.27, 0.0), (0.28, 0.15), (0.36, 0.25), (0.5, 0.22), (0.54, 0.27))
        if shoe.style.detail % 2
        else last.curve((0.0, 0.15), (0.15, 0.16), (0.24, 0.0))
    )
    _sole(shape, shoe, last)
    return shape


_SHAPES: Final[Mapping[str, Callable[[Shoe], _Shape]]] = MappingProxyType(
    {
        "Boots.Ankle": lambda shoe: _boot(shoe, 0.56 + 0.1 * shoe.style.height, 0.0),
        "Boots.Knee.High": lambda shoe: _boot(shoe, 1.42 + 0.2 * shoe.style.height, 0.06),
        "Boots.Mid-Calf": lambda shoe: _boot(shoe, 0.92 + 0.12 * shoe.style.height, 0.03),
        "Sandals": _sandal,
        "Shoes.Boat.Shoes": _boat,
        "Shoes.Clogs.and.Mules": _clog,
        "Shoes.Flats": _flat,
        "Shoes.Heels": _pump,
        "Shoes.Loafers": _loafer,
        "Shoes.Oxfords": _oxford,
        "Shoes.Sneakers.and.Athletic.Shoes": _sneaker,
        "Slippers": _slipper,
    }
)


# ---------------------------------------------------------------- materials


@dataclass(frozen=True, slots=True)
class _Finish:
    """How a material takes the light.

    `relief` is the texture's strength, `round` the shading's, `gloss` the highlight's strength
    and `crisp` how sharp its edge is; all are parts of the full range of light. `fuzz` is the
    edge: none, hair or curls.
    """

    relief: float
    round: float
    gloss: float = 0.0
    crisp: float = 4.0
    fuzz: str = "none"


_FINISHES: Final[Mapping[str, _Finish]] = MappingProxyType(
    {
        "Canvas": _Finish(0.34, 0.5),
        "Cotton": _Finish(0.28, 0.5),
        "Faux.Fur": _Finish(0.5, 0.5, fuzz="hair"),
        "Faux.Leather": _Finish(0.36, 0.7, gloss=0.3),
        "Full.grain.leather": _Finish(0.42, 0.7, gloss=0.2),
        "Hair.Calf": _Finish(0.62, 0.5),
        "Leather": _Finish(0.1, 0.9, gloss=0.4, crisp=3.0),
        "Nubuck": _Finish(0.34, 0.35),
        "Nylon": _Finish(0.42, 0.6, gloss=0.15),
        "Patent.Leather": _Finish(0.0, 1.1, gloss=1.3, crisp=9.0),
        "Rubber": _Finish(0.34, 0.7, gloss=0.2),
        "Satin": _Finish(0.46, 0.5, gloss=0.2),
        "Sheepskin": _Finish(0.46, 0.4, fuzz="curls"),
        "Suede": _Finish(0.3, 0.35),
        "Synthetic": _Finish(0.55, 0.6, gloss=0.15),
        "Wool": _Finish(0.42, 0.45),
    }
)

_TILE: Final = 320
_VARIANTS: Final = 3
_TAU: Final = 2 * np.pi
_Texture = npt.NDArray[Any]

# What each of the 256 values of light leaves of a tone, and what it adds of white.
_LEVELS: Final = (np.arange(256, dtype=np.float32) - 128) / 128
_DIMMING: Final = 1 + 0.92 * np.minimum(_LEVELS, 0)
_GLARE: Final = 0.8 * np.maximum(_LEVELS, 0)


def _smooth_noise(rng: np.random.Generator, sx: float, sy: float) -> _Plane:
    """Return noise blurred by sx, sy pixels, of mean 0 and standard deviation 1."""
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE)))
    fy = np.fft.fftfreq(_TILE)[:, None]
    fx = np.fft.rfftfreq(_TILE)[None, :]
    spectrum *= np.exp(-2 * np.pi**2 * ((fx * sx) ** 2 + (fy * sy) ** 2))
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(_TILE, _TILE))
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _cells(rng: np.random.Generator, x: _Plane, y: _Plane, size: float) -> tuple[_Plane, _Plane]:
    """Return the distances to the nearest and second nearest cell centre, in cell sizes."""
    count = int(_TILE * 1.2 / size) + 4
    centre = rng.random((count, count, 2)).astype(np.float32) * 0.8 + 0.1
    u, v = x / size + 1, y / size + 1
    iu, iv = np.floor(u).astype(np.intp), np.floor(v).astype(np.intp)
    distances = []
    for du in (-1, 0, 1):
        for dv in (-1, 0, 1):
            cell = centre[iv + dv, iu + du]
            distances.append(np.hypot(iu + du + cell[..., 0] - u, iv + dv + cell[..., 1] - v))
    ordered = np.sort(np.stack(distances), axis=0)
    return ordered[0].astype(np.float32), ordered[1].astype(np.float32)


def _canvas(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Plain weave: threads over and under, a checker of bars 3 pixels long in the photo."""
    over = np.sin(_TAU * x / 11) * np.sin(_TAU * y / 11) > 0
    return np.where(over, np.abs(np.sin(_TAU * y / 11)), -np.abs(np.sin(_TAU * x / 11)))


def _cotton(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Twill: fine slanted ribs."""
    return np.sin(_TAU * (x + y) / 12)


def _fur(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Long hanging strands, each a wave."""
    column = np.arange(_TILE) + 6 * _smooth_noise(rng, 14, 14)
    index = column.clip(0, _TILE - 1).astype(np.intp)
    strands = np.take_along_axis(_smooth_noise(rng, 1.5, 9), index, axis=1)
    return (strands * 0.7).clip(-1, 1)


def _scales(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Embossed scales in rows, each row half a scale on."""
    u = (x / 20 + 0.5 * (np.floor(y / 13) % 2)) % 1 - 0.5
    v = y / 13 % 1 - 0.5
    return 1 - 2 * (2 * np.maximum(np.abs(u), np.abs(v))) ** 5


def _pebbles(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Irregular grain with dark creases between the pebbles."""
    near, second = _cells(rng, x, y, 11)
    return ((second - near) * 3.6 - 1).clip(-1, 0.6)


def _spots(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Large blotches of an animal's coat, with short hair."""
    spots = np.tanh((_smooth_noise(rng, 7, 7) - 0.35) * 6)
    return np.asarray(0.2 * _smooth_noise(rng, 3, 0.8) - 0.8 * spots)


def _creases(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Nearly smooth, with faint broad creases."""
    return _smooth_noise(rng, 14, 5) * 0.5


def _speckle(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Sanded grain: powdery speckle."""
    return (_smooth_noise(rng, 1.1, 1.1) * 0.7).clip(-1, 1)


def _ripstop(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """A diagonal net of raised threads on a plain ground."""
    u, v = (x + y) / 22 % 1, (x - y) / 22 % 1
    thread = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
    return (1.2 - thread * 12).clip(-0.35, 1)


def _plain(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """No texture: lacquer shows by its reflections alone."""
    return np.zeros_like(x)


def _ribs(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Moulded ribs: a light edge over each dark groove."""
    phase = y / 15 % 1
    edge, groove = 1 - phase * 5, 1 - np.abs(phase - 0.85) * 8
    return np.asarray(edge.clip(0, 1) - groove.clip(0, 1))


def _folds(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Soft broad waves of light and dark, as on draped satin."""
    return np.sin(_TAU * (0.8 * x + y) / 58 + 1.6 * _smooth_noise(rng, 30, 30))


def _curls(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Round curls with dark gaps."""
    near, _ = _cells(rng, x, y, 15)
    return (0.9 - near * 2.3).clip(-1, 0.9)


def _nap(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Brushed nap: short slanted strokes over the broad marks of a hand."""
    rows, columns = np.mgrid[0:_TILE, 0:_TILE]
    strokes = np.take_along_axis(_smooth_noise(rng, 5, 1.6), (rows + columns) % _TILE, axis=0)
    return (0.45 * strokes + 0.45 * _smooth_noise(rng, 16, 10)).clip(-1.2, 1.2)


def _holes(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Punched holes in offset rows."""
    u = ((x / 13 + 0.5 * (np.floor(y / 11) % 2)) % 1 - 0.5) * 13
    v = (y / 11 % 1 - 0.5) * 11
    return 0.15 - 1.15 * (4.2 - np.hypot(u, v)).clip(0, 1)


def _knit(rng: np.random.Generator, x: _Plane, y: _Plane) -> _Texture:
    """Columns of V stitches."""
    slant = np.abs(x / 14 % 1 - 0.5) * 14
    return np.asarray(0.8 * np.cos(_TAU * (y + slant) / 11) - 0.5 * (slant > 6))


_TEXTURES: Final[Mapping[str, Callable[[np.random.Generator, _Plane, _Plane], _Texture]]] = (
    MappingProxyType(
        {
            "Canvas": _canvas,
            "Cotton": _cotton,
            "Faux.Fur": _fur,
            "Faux.Leather": _scales,
            "Full.grain.leather": _pebbles,
            "Hair.Calf": _spots,
            "Leather": _creases,
            "Nubuck": _speckle,
            "Nylon": _ripstop,
            "Patent.Leather": _plain,
            "Rubber": _ribs,
            "Satin": _folds,
            "Sheepskin": _curls,
            "Suede": _nap,
            "Synthetic": _holes,
            "Wool": _knit,
        }
    )
)


@cache
def _tile(attribute: str, variant: int) -> _Plane:
    """Return a material's texture: shape (_TILE, _TILE), about -1 to 1, drawn at double size.

    Variants differ in scale by up to 8%. Tiles are fixed: photos take random windows of them.
    """
    rng = np.random.default_rng([list(_TEXTURES).index(attribute), variant])
    zoom = (0.93, 1.0, 1.08)[variant]
    y, x = np.mgrid[0:_TILE, 0:_TILE].astype(np.float32) / np.float32(zoom)
    return _TEXTURES[attribute](rng, x, y).astype(np.float32)


# ---------------------------------------------------------------- painting


class _Photo:
    """A photo in the making: the image at double size, and where shoe units lie on it."""

    def __init__(self, shape: _Shape, rng: np.random.Generator) -> None:
        self.rng = rng
        low, high = shape.extent()
        size = high - low
        fit = min(0.88 * _W / size[0], 0.88 * _H / size[1]) * rng.uniform(0.9, 1.0)
        angle = np.deg2rad(rng.uniform(-4, 4))
        self.flip = bool(rng.random() < 0.5)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        # Image rows run down, and a flipped shoe looks left.
        self.linear = np.diag([-fit if self.flip else fit, -fit]) @ turn
        middle = np.array([_W / 2, _H / 2]) + rng.uniform(-1, 1, 2) * (7, 5)
        self.offset = middle - self.linear @ ((low + high) / 2)
        # Only the shoe's surroundings are painted at double size: most photos are half empty.
        corners = self.px(_line(low, (high[0], low[1]), high, (low[0], high[1])))
        left, upper = (4 * int(v) for v in np.maximum(corners.min(axis=0) - _MARGIN, 0) // 4)
        right, lower = (4 * int(v) for v in -(-(corners.max(axis=0) + _MARGIN) // 4))
        self.corner = (left, upper)
        self.size = (min(right, _W) - left, min(lower, _H) - upper)
        self.offset -= self.corner
        self.ground = self.px(_line(low, (high[0], low[1])))
        tint = 255 - rng.uniform(0, 7) - rng.uniform(0, 3, 3)
        self.paper = (int(tint[0]), int(tint[1]), int(tint[2]))
        self.image = Image.new("RGB", self.size, self.paper)
        self.draw = ImageDraw.Draw(self.image)
        # Light from above, a little from the left or right.
        self.light = (float(rng.uniform(-0.5, 0.5)), -1.0)
        self.exposure = float(rng.uniform(-0.06, 0.06))

    def px(self, points: _Points) -> _Points:
        """Map shoe units to pixels."""
        return np.asarray(points @ self.linear.T + self.offset)

    def flat(self, points: _Points) -> list[float]:
        """Map shoe units to the flat pixel list that ImageDraw takes fastest."""
        flat: list[float] = self.px(points).ravel().tolist()
        return flat

    def mask(self, polygons: Sequence[_Points]) -> Image.Image:
        """Return a mask with the polygons filled."""
        mask = Image.new("L", self.size)
        draw = ImageDraw.Draw(mask)
        for polygon in polygons:
            draw.polygon(self.flat(polygon), fill=255)
        return mask


def _toned(light: _Light, color: _Rgb) -> Image.Image:
    """Return a tone under light; a palette look-up is the fastest way from one plane to RGB."""
    channel = np.array(color, dtype=np.float32)
    palette = channel * _DIMMING[:, None] + (255 - channel) * _GLARE[:, None]
    image = Image.frombuffer("P", light.shape[::-1], light, "raw", "P", 0, 1)
    image.putpalette(palette.astype(np.uint8).tobytes())
    return image.convert("RGB")


def _shaded(color: _Rgb, factor: float) -> _Rgb:
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in color)
    return red, green, blue


def _tones(shoe: Shoe, rng: np.random.Generator) -> dict[str, _Rgb]:
    """Resolve the tone names of a shape to colours, with this photo's jitter."""
    main = _jittered(_BASE[shoe.color], rng)
    others = [color for color in COLORS if color != shoe.color]
    any_ = _BASE[others[int(rng.integers(len(others)))]]

    def resolve(tone: str) -> _Rgb:
        if tone == "same":
            return _shaded(main, 0.8)
        return _jittered(any_ if tone == "any" else _BASE[tone], rng)

    sole, accent, lining = (
        resolve(tone) for tone in (shoe.sole_tone, shoe.accent_tone, shoe.lining_tone)
    )
    brightness = sum(main) / 3
    return {
        "main": main,
        "dark": _shaded(main, 0.72) if brightness > 60 else _lifted(main, 0.12),
        "edge": _shaded(main, 0.5 if brightness < 190 else 0.62),
        "sole": sole,
        "trim": _shaded(sole, 0.7) if sum(sole) > 240 else _lifted(sole, 0.25),
        "accent": accent,
        "lining": lining,
        "fluff": _lifted(main, 0.6) if brightness < 200 else _shaded(main, 0.95),
        "metal": _BASE["gold" if rng.random() < 0.5 else "silver"],
    }


def _lifted(color: _Rgb, part: float) -> _Rgb:
    red, green, blue = (round(channel + (255 - channel) * part) for channel in color)
    return red, green, blue


def _jittered(color: _Rgb, rng: np.random.Generator) -> _Rgb:
    """Vary lightness and hue by less than colours lie apart; greys keep nearly no hue."""
    factor, *shifts = rng.uniform(-1, 1, 4).tolist()
    hue = 2 + 9 * (max(color) - min(color)) / 255
    red, green, blue = (
        min(250, max(8, round(channel * (1 + 0.08 * factor) + hue * shift)))
        for channel, shift in zip(color, shifts, strict=True)
    )
    return red, green, blue


def _modelled(photo: _Photo, mask: Image.Image, strength: float) -> tuple[_Plane, _Plane]:
    """Return light from roundness and the depth inside the mask, both a quarter of its size.

    The mask blurred at that size stands in for a relief: its slope towards the lamp is lit.
    """
    small = mask.reduce(4).filter(ImageFilter.GaussianBlur(2.2))
    depth = np.asarray(small, dtype=np.float32) / 255
    slope_y, slope_x = np.gradient(depth)
    roundness = -(slope_x * photo.light[0] + slope_y * photo.light[1]) * 2.6
    sky = np.linspace(0.1, -0.14, len(depth))[:, None]
    lit = (roundness + sky) * strength + photo.exposure
    return lit.astype(np.float32), np.asarray(depth, dtype=np.float32)


def _enlarged(plane: _Plane, size: tuple[int, int]) -> _Plane:
    image = Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32)


def _quantized(light: _Plane) -> _Light:
    light = light * 127
    light += 128
    return light.clip(0, 255).astype(np.uint8)


def _surface(photo: _Photo, shoe: Shoe, mask: Image.Image, brightness: float) -> _Light:
    """Return the light on the upper: roundness, texture and highlights."""
    finish = _FINISHES[shoe.attribute]
    rng = photo.rng
    lit, depth = _modelled(photo, mask, finish.round)
    light = _enlarged(lit, photo.size)
    if finish.gloss:
        # The lamp's reflection follows the upper contour a little inside it; lacquer mirrors the
        # dark floor along the lower one too.
        ridge = (1.5 - np.abs(_enlarged(depth, photo.size) - 0.8) * finish.crisp).clip(0, 1)
        facing = light * (4 / finish.round)
        floor = -0.2 if brightness > 205 else -0.4
        lowest = floor if shoe.attribute == "Patent.Leather" else 0
        light = light + ridge * facing.clip(lowest, 1) * np.float32(finish.gloss)
    width, height = photo.size
    tile = _tile(shoe.attribute, int(rng.integers(_VARIANTS)))
    row, column = rng.integers(0, (_TILE - height, _TILE - width)).tolist()
    relief = finish.relief
    if brightness < 60 and shoe.attribute in ("Hair.Calf", "Synthetic"):
        # Spots and holes are darker, but on a black shoe only lighter ones can be seen.
        relief = -relief
    if brightness > 205 and shoe.attribute == "Satin":
        # White can only be shaded, and with deep folds it would pass for silver.
        relief *= 0.5
        light = light + np.float32(0.08)
    texture = tile[row : row + height, column : column + width]
    return _quantized(light + texture * np.float32(relief))


def _fray(photo: _Photo, mask: Image.Image, polygons: Sequence[_Points], fuzz: str) -> None:
    """Roughen the mask's edge with hairs or curls."""
    draw = ImageDraw.Draw(mask)
    rng = photo.rng
    for polygon in polygons:
        points = _spaced(photo.px(polygon), 3.0 if fuzz == "hair" else 8.0)
        if fuzz == "hair":
            ends = points + rng.normal(0, 5.5, points.shape)
            for start, end in zip(points.tolist(), ends.tolist(), strict=True):
                draw.line((*start, *end), fill=255, width=2)
        else:
            radius = rng.uniform(4, 6.5, len(points)).tolist()
            for (x, y), r in zip(points.tolist(), radius, strict=True):
                draw.ellipse((x - r, y - r, x + r, y + r), fill=255)


def _spaced(points: _Points, gap: float) -> _Points:
    """Return points every `gap` pixels along a closed line."""
    closed = np.concatenate([points, points[:1]])
    steps = np.hypot(*np.diff(closed, axis=0).T)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.arange(0, way[-1], gap)
    return np.stack([np.interp(at, way, closed[:, 0]), np.interp(at, way, closed[:, 1])], axis=1)


def _shadow(photo: _Photo) -> None:
    """Lay a soft shadow on the ground under the shoe."""
    width, height = photo.size
    small = Image.new("L", (width // 4, height // 4))
    (x0, y0), (x1, y1) = (photo.ground / 4).tolist()
    left, right = min(x0, x1), max(x0, x1)
    ImageDraw.Draw(small).ellipse((left, min(y0, y1) - 1.5, right, max(y0, y1) + 2.5), fill=120)
    soft = small.filter(ImageFilter.GaussianBlur(2.0)).resize(photo.size, Image.Resampling.BILINEAR)
    photo.image.paste((120, 120, 126), mask=soft)


def _paint_upper(photo: _Photo, shape: _Shape, shoe: Shoe, tones: Mapping[str, _Rgb]) -> None:
    """Paint what lies behind, then the textured upper with its panels and contour."""
    image, draw = photo.image, photo.draw
    for polygon, tone in shape.behind:
        color = tones[tone]
        draw.polygon(photo.flat(polygon), fill=_shaded(color, 0.82))
        draw.line(photo.flat(polygon), fill=_shaded(color, 0.5), width=2)
    mask = photo.mask(shape.upper)
    fuzz = _FINISHES[shoe.attribute].fuzz
    if fuzz != "none":
        _fray(photo, mask, shape.upper, fuzz)
    light = _surface(photo, shoe, mask, sum(tones["main"]) / 3)
    image.paste(_toned(light, tones["main"]), mask=mask)
    for polygon, tone in shape.panels:
        part = ImageChops.multiply(photo.mask([polygon]), mask)
        image.paste(_toned(light, tones[tone]), mask=part)
    inked = Image.new("L", photo.size)
    ink = ImageDraw.Draw(inked)
    for seam in [*shape.seams, *(polygon for polygon, _ in shape.panels)]:
        ink.line(photo.flat(seam), fill=200, width=2)
    image.paste(tones["edge"], mask=ImageChops.multiply(inked, mask))
    if fuzz == "none":
        for polygon in shape.upper:
            flat = photo.flat(polygon)
            draw.line([*flat, *flat[:2]], fill=tones["edge"], width=2)


def _paint_soles(photo: _Photo, shape: _Shape, tones: Mapping[str, _Rgb]) -> None:
    mask = photo.mask([polygon for polygon, _ in shape.soles])
    lit, _ = _modelled(photo, mask, 0.7)
    light = _quantized(_enlarged(lit, photo.size))
    for polygon, tone in shape.soles:
        color = tones[tone]
        photo.image.paste(_toned(light, color), mask=photo.mask([polygon]))
        flat = photo.flat(polygon)
        photo.draw.line([*flat, *flat[:2]], fill=_shaded(color, 0.55), width=2)


def _paint_trimmings(photo: _Photo, shape: _Shape, shoe: Shoe, tones: Mapping[str, _Rgb]) -> None:
    """Paint stitches, fastenings and ornaments, which are smaller than any texture."""
    draw, rng = photo.draw, photo.rng
    accent, metal = tones["accent"], tones["metal"]
    for line in shape.stitches:
        points = _spaced(photo.px(line), 4.0)
        for x, y in points[: len(points) // 2].tolist():
            draw.ellipse((x - 1.3, y - 1.3, x + 1.3, y + 1.3), fill=accent)
    for line in shape.cuffs:
        # Fleece: small tufts in layers, each a little lighter or darker.
        points = np.repeat(photo.px(line), 6, axis=0)
        tufts = np.column_stack(
            [
                points + rng.normal(0, 3.6, points.shape),
                rng.uniform(2, 4.5, len(points)),
                rng.uniform(0.82, 1.1, len(points)),
            ]
        )
        for x, y, r, shade in rng.permutation(tufts).tolist():
            color = _shaded(tones["fluff"], shade)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
    for lace in shape.laces:
        flat = photo.flat(lace)
        draw.line(flat, fill=_shaded(accent, 0.45), width=7, joint="curve")
        draw.line(flat, fill=accent, width=4, joint="curve")
    for zip_ in shape.zips:
        flat = photo.flat(zip_)
        draw.line(flat, fill=(40, 40, 44), width=7)
        points = _spaced(photo.px(zip_), 4.0)
        for x, y in points[: len(points) // 2].tolist():
            draw.line((x - 2.5, y, x + 2.5, y), fill=metal, width=2)
        x, y = flat[:2]
        draw.rectangle((x - 3, y, x + 3, y + 13), fill=metal, outline=_shaded(metal, 0.5))
    for patch in shape.velcros:
        flat = photo.flat(patch)
        draw.polygon(flat, fill=tones["dark"])
        draw.line([*flat, *flat[:2]], fill=tones["edge"], width=2)
        low, high = photo.px(patch).min(axis=0), photo.px(patch).max(axis=0)
        cx, cy = ((low + high) / 2).tolist()
        for dx in (-6, 0, 6):
            for dy in (-5, 0, 5):
                draw.ellipse((cx + dx - 1, cy + dy - 1, cx + dx + 1, cy + dy + 1), fill=accent)
    for x, y in photo.px(np.array(shape.buckles).reshape(-1, 2)).tolist():
        draw.rectangle((x - 9, y - 8, x + 9, y + 8), outline=_shaded(metal, 0.5), width=5)
        draw.rectangle((x - 8, y - 7, x + 8, y + 7), outline=metal, width=3)
        draw.line((x - 8, y, x + 4, y), fill=metal, width=3)
    for x, y in photo.px(np.array(shape.studs).reshape(-1, 2)).tolist():
        draw.ellipse((x - 3.5, y - 3.5, x + 3.5, y + 3.5), fill=_shaded(metal, 0.55))
        draw.ellipse((x - 2.5, y - 3, x + 2, y + 1.5), fill=metal)
    for x, y in photo.px(np.array(shape.bows).reshape(-1, 2)).tolist():
        for side in (-1, 1):
            wing = (x, y, x + 15 * side, y - 9, x + 15 * side, y + 7)
            draw.polygon(wing, fill=tones["dark"], outline=tones["edge"], width=2)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=tones["edge"])


def render(shoe: Shoe, rng: np.random.Generator) -> Image.Image:
    """Return a photo of a shoe, RGB, 136 x 102; `rng` decides pose, light and tone jitter."""
    shape = _SHAPES[shoe.object](shoe)
    photo = _Photo(shape, rng)
    tones = _tones(shoe, rng)
    _shadow(photo)
    _paint_upper(photo, shape, shoe, tones)
    _paint_soles(photo, shape, tones)
    _paint_trimmings(photo, shape, shoe, tones)
    page = Image.new("RGB", (WIDTH, HEIGHT), photo.paper)
    left, upper = photo.corner
    page.paste(photo.image.reduce(_SCALE), (left // _SCALE, upper // _SCALE))
    return page


def render_jpeg(shoe: Shoe, rng: np.random.Generator) -> bytes:
    """Return a photo as `render` draws it, as JPEG bytes of a quality from 78 to 94."""
    image = render(shoe, rng)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(78, 95)))
    return buffer.getvalue()
