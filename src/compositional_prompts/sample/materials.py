"""How each material looks: its texture, and how it takes the light."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
"""One number a pixel, ``[height, width]``."""


@dataclass(frozen=True, slots=True)
class Finish:
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


FINISHES: Final[Mapping[str, Finish]] = MappingProxyType(
    {
        "Canvas": Finish(0.34, 0.5),
        "Cotton": Finish(0.28, 0.5),
        "Faux.Fur": Finish(0.5, 0.5, fuzz="hair"),
        "Faux.Leather": Finish(0.36, 0.7, gloss=0.3),
        "Full.grain.leather": Finish(0.42, 0.7, gloss=0.2),
        "Hair.Calf": Finish(0.62, 0.5),
        "Leather": Finish(0.1, 0.9, gloss=0.4, crisp=3.0),
        "Nubuck": Finish(0.34, 0.35),
        "Nylon": Finish(0.42, 0.6, gloss=0.15),
        "Patent.Leather": Finish(0.0, 1.1, gloss=1.3, crisp=9.0),
        "Rubber": Finish(0.34, 0.7, gloss=0.2),
        "Satin": Finish(0.46, 0.5, gloss=0.2),
        "Sheepskin": Finish(0.46, 0.4, fuzz="curls"),
        "Suede": Finish(0.3, 0.35),
        "Synthetic": Finish(0.55, 0.6, gloss=0.15),
        "Wool": Finish(0.42, 0.45),
    }
)
"""By the attribute that the material is called in labels."""

TILE: Final = 320
"""Side of a tile of texture, pixels at double size."""

VARIANTS: Final = 3
"""How many tiles there are of each material."""

_TAU: Final = 2 * np.pi
_Texture = npt.NDArray[Any]


def _smooth_noise(rng: np.random.Generator, sx: float, sy: float) -> Plane:
    """Return noise blurred by sx, sy pixels, of mean 0 and standard deviation 1."""
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE)))
    fy = np.fft.fftfreq(TILE)[:, None]
    fx = np.fft.rfftfreq(TILE)[None, :]
    spectrum *= np.exp(-2 * np.pi**2 * ((fx * sx) ** 2 + (fy * sy) ** 2))
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(TILE, TILE))
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _cells(rng: np.random.Generator, x: Plane, y: Plane, size: float) -> tuple[Plane, Plane]:
    """Return the distances to the nearest and second nearest cell centre, in cell sizes."""
    count = int(TILE * 1.2 / size) + 4
    centre = rng.random((count, count, 2)).astype(np.float32) * 0.8 + 0.1
    u, v = x / size + 1, y / size + 1
    iu, iv = np.floor(u).astype(np.intp), np.floor(v).astype(np.intp)
    near = second = np.full(u.shape, np.inf, dtype=np.float32)
    for du in (-1, 0, 1):
        for dv in (-1, 0, 1):
            cell = centre[iv + dv, iu + du]
            distance = np.hypot(iu + du + cell[..., 0] - u, iv + dv + cell[..., 1] - v)
            second = np.minimum(second, np.maximum(near, distance))
            near = np.minimum(near, distance)
    return near.astype(np.float32), second.astype(np.float32)


def _canvas(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Plain weave: threads over and under, a checker of bars 3 pixels long in the photo."""
    over = np.sin(_TAU * x / 11) * np.sin(_TAU * y / 11) > 0
    return np.where(over, np.abs(np.sin(_TAU * y / 11)), -np.abs(np.sin(_TAU * x / 11)))


def _cotton(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Twill: fine slanted ribs."""
    return np.sin(_TAU * (x + y) / 12)


def _fur(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Long hanging strands, each a wave."""
    column = np.arange(TILE) + 6 * _smooth_noise(rng, 14, 14)
    index = column.clip(0, TILE - 1).astype(np.intp)
    strands = np.take_along_axis(_smooth_noise(rng, 1.5, 9), index, axis=1)
    return (strands * 0.7).clip(-1, 1)


def _scales(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Embossed scales in rows, each row half a scale on."""
    u = (x / 20 + 0.5 * (np.floor(y / 13) % 2)) % 1 - 0.5
    v = y / 13 % 1 - 0.5
    return 1 - 2 * (2 * np.maximum(np.abs(u), np.abs(v))) ** 5


def _pebbles(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Irregular grain with dark creases between the pebbles."""
    near, second = _cells(rng, x, y, 11)
    return ((second - near) * 3.6 - 1).clip(-1, 0.6)


def _spots(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Large blotches of an animal's coat, with short hair."""
    spots = np.tanh((_smooth_noise(rng, 7, 7) - 0.35) * 6)
    return np.asarray(0.2 * _smooth_noise(rng, 3, 0.8) - 0.8 * spots)


def _creases(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Nearly smooth, with faint broad creases."""
    return _smooth_noise(rng, 14, 5) * 0.5


def _speckle(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Sanded grain: powdery speckle."""
    return (_smooth_noise(rng, 1.1, 1.1) * 0.7).clip(-1, 1)


def _ripstop(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """A diagonal net of raised threads on a plain ground."""
    u, v = (x + y) / 22 % 1, (x - y) / 22 % 1
    thread = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
    return (1.2 - thread * 12).clip(-0.35, 1)


def _plain(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """No texture: lacquer shows by its reflections alone."""
    return np.zeros_like(x)


def _ribs(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Moulded ribs: a light edge over each dark groove."""
    phase = y / 15 % 1
    edge, groove = 1 - phase * 5, 1 - np.abs(phase - 0.85) * 8
    return np.asarray(edge.clip(0, 1) - groove.clip(0, 1))


def _folds(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Soft broad waves of light and dark, as on draped satin."""
    return np.sin(_TAU * (0.8 * x + y) / 58 + 1.6 * _smooth_noise(rng, 30, 30))


def _curls(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Round curls with dark gaps."""
    near, _ = _cells(rng, x, y, 15)
    return (0.9 - near * 2.3).clip(-1, 0.9)


def _nap(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Brushed nap: short slanted strokes over the broad marks of a hand."""
    rows, columns = np.mgrid[0:TILE, 0:TILE]
    strokes = np.take_along_axis(_smooth_noise(rng, 5, 1.6), (rows + columns) % TILE, axis=0)
    return (0.45 * strokes + 0.45 * _smooth_noise(rng, 16, 10)).clip(-1.2, 1.2)


def _holes(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Punched holes in offset rows."""
    u = ((x / 13 + 0.5 * (np.floor(y / 11) % 2)) % 1 - 0.5) * 13
    v = (y / 11 % 1 - 0.5) * 11
    return 0.15 - 1.15 * (4.2 - np.hypot(u, v)).clip(0, 1)


def _knit(rng: np.random.Generator, x: Plane, y: Plane) -> _Texture:
    """Columns of V stitches."""
    slant = np.abs(x / 14 % 1 - 0.5) * 14
    return np.asarray(0.8 * np.cos(_TAU * (y + slant) / 11) - 0.5 * (slant > 6))


_TEXTURES: Final[Mapping[str, Callable[[np.random.Generator, Plane, Plane], _Texture]]] = (
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
def tile_of(attribute: str, variant: int) -> Plane:
    """Return a material's texture: shape (TILE, TILE), about -1 to 1, drawn at double size.

    Variants differ in scale by up to 8%. Tiles are fixed: photos take random windows of them.
    """
    rng = np.random.default_rng([list(_TEXTURES).index(attribute), variant])
    zoom = (0.93, 1.0, 1.08)[variant]
    y, x = np.mgrid[0:TILE, 0:TILE].astype(np.float32) / np.float32(zoom)
    return _TEXTURES[attribute](rng, x, y).astype(np.float32)
