"""What a shoe is made of: polygons and lines of its parts, before any paint.

In shoe units: x from heel 0 to toe 1, y up from the ground, 1 is the foot's length.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from compositional_prompts.sample.appearance import Shoe

Points = npt.NDArray[np.float64]
"""Corners of a polygon or a line, ``[points, 2]``."""


@dataclass(slots=True)
class Shape:
    """Parts of a shoe in shoe units; tones are names that the painter resolves."""

    upper: list[Points] = field(default_factory=list)
    behind: list[tuple[Points, str]] = field(default_factory=list)
    panels: list[tuple[Points, str]] = field(default_factory=list)
    soles: list[tuple[Points, str]] = field(default_factory=list)
    seams: list[Points] = field(default_factory=list)
    stitches: list[Points] = field(default_factory=list)
    laces: list[Points] = field(default_factory=list)
    zips: list[Points] = field(default_factory=list)
    cuffs: list[Points] = field(default_factory=list)
    velcros: list[Points] = field(default_factory=list)
    buckles: list[tuple[float, float]] = field(default_factory=list)
    studs: list[tuple[float, float]] = field(default_factory=list)
    bows: list[tuple[float, float]] = field(default_factory=list)

    def extent(self) -> tuple[Points, Points]:
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


def _curve(*points: tuple[float, float]) -> Points:
    """Return a smooth (Catmull-Rom) line through the points, shape (n, 2)."""
    knots = np.array([points[0], *points, points[-1]], dtype=np.float64)
    windows = np.stack([knots[:-3], knots[1:-2], knots[2:-1], knots[3:]], axis=1)
    line = np.einsum("tk,skc->stc", _BLEND, windows).reshape(-1, 2)
    return np.concatenate([line, knots[-1:]])


def line_through(*points: tuple[float, float] | Points) -> Points:
    """Return the straight line from point to point, shape (n, 2)."""
    return np.array(points, dtype=np.float64)


def _join(*lines: Points) -> Points:
    return np.concatenate(lines)


def _ring(x: float, y: float, rx: float, ry: float) -> Points:
    """Return an ellipse as a polygon."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _band(line: Points, width: float) -> Points:
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

    def bed(self, x: Points) -> Points:
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

    def curve(self, *points: tuple[float, float]) -> Points:
        """Return a smooth line through points given as (x, height above the bed)."""
        return _curve(*(self.at(x, over) for x, over in points))

    def area(self, *points: tuple[float, float]) -> Points:
        """Return the area between the bed and a smooth line above it."""
        top = self.curve(*points)
        return self.filled(top)

    def filled(self, top: Points) -> Points:
        """Close a line that runs from heel to toe along the bed below it."""
        x = np.linspace(top[-1, 0], top[0, 0], 16)
        return np.concatenate([top, np.stack([x, self.bed(x)], axis=1)])

    def strip(self, start: float, end: float, low: float, high: float) -> Points:
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


def _slab(shape: Shape, last: _Last, tone: str) -> None:
    """Add a flat outsole with rounded ends."""
    end = 1.02 + 0.05 * last.point
    sole = _join(
        last.strip(-0.02, 1.01, 0.0, 0.015)[:20],
        _curve((end, last.thick + 0.02), (end - 0.02, 0.02), (end - 0.09, 0.0)),
        _curve((0.04, 0.0), (-0.02, 0.02), (-0.03, last.thick * 0.7)),
    )
    shape.soles.append((sole, tone))


def _heeled(shape: Shape, last: _Last, tone: str, heel: str, tip: float, width: float) -> None:
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


def _sole(shape: Shape, shoe: Shoe, last: _Last) -> None:
    """Add the sole that fits the heel: a slab, a block heel, or a slim one."""
    if shoe.heel_height == "flat":
        _slab(shape, last, "sole")
    elif shoe.heel_height == "high":
        slim = shoe.style.detail % 2 == 0
        _heeled(shape, last, "sole", "sole", 0.05 if slim else 0.15, 0.2 if slim else 0.24)
    else:
        _heeled(shape, last, "sole", "sole", 0.22, 0.28)


def _laced(shape: Shape, top: tuple[float, float], bottom: tuple[float, float], rows: int) -> None:
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


def _sneaker(shoe: Shoe) -> Shape:
    last, shape = _last(shoe, 0.1), Shape()
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


def _oxford(shoe: Shoe) -> Shape:
    last, shape = _last(shoe, 0.035), Shape()
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


def _low_cut(shape: Shape, last: _Last) -> None:
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


def _loafer(shoe: Shoe) -> Shape:
    last, shape = _last(shoe, 0.035), Shape()
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


def _boat(shoe: Shoe) -> Shape:
    last, shape = _last(shoe, 0.06), Shape()
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


def _ballet(shoe: Shoe, last: _Last, vamp: float) -> Shape:
    """Return the low-cut upper that flats and heels share; `vamp` is where it closes."""
    shape = Shape()
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


def _flat(shoe: Shoe) -> Shape:
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
        (line_through((0.0, last.thick), (0.2, last.thick), (0.19, -0.012), (0.01, -0.012)), "sole")
    )
    return shape


def _pump(shoe: Shoe) -> Shape:
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


def _sandal(shoe: Shoe) -> Shape:
    last, shape = _last(shoe, 0.055), Shape()
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
        wedge = _join(
            last.strip(-0.02, 1.0, 0.0, 0.012)[:20], line_through((0.97, 0.0), (0.0, 0.0))
        )
        shape.soles.append((wedge, "sole"))
    else:
        _sole(shape, shoe, last)
    return shape


def _clog(shoe: Shoe) -> Shape:
    last, shape = _last(shoe, 0.085), Shape()
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


def _slipper(shoe: Shoe) -> Shape:
    last, shape = _last(shoe, 0.05), Shape()
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


def _boot(shoe: Shoe, shaft: float, flare: float) -> Shape:
    """Return a boot whose shaft ends `shaft` above the heel's bed."""
    last, shape = _last(shoe, 0.05), Shape()
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
            line_through((0.1, top + 0.02)),
            _curve((0.12, base + 0.35), (0.2, base + 0.22), (0.28, base + 0.35)),
            line_through((0.31, top + 0.02)),
        )
        shape.panels.append((gore, "dark"))
    else:
        shape.seams.append(line_through((-0.1, top - 0.09), (0.6, top - 0.09)))
    shape.seams.append(
        last.curve((0.27, 0.0), (0.28, 0.15), (0.36, 0.25), (0.5, 0.22), (0.54, 0.27))
        if shoe.style.detail % 2
        else last.curve((0.0, 0.15), (0.15, 0.16), (0.24, 0.0))
    )
    _sole(shape, shoe, last)
    return shape


SHAPES: Final[Mapping[str, Callable[[Shoe], Shape]]] = MappingProxyType(
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
"""How to cut a shoe of each type."""
