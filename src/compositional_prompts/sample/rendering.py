"""Draws one shoe as a product photo: side view on a white ground, 136 x 102 pixels.

A shoe's shape is painted at twice the size and reduced, which smooths the edges. Light and texture
live in one grey plane ("light", 128 is neutral) that look-up tables turn into each tone, so that a
photo costs a few whole-image operations.
"""

import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from compositional_prompts.sample.appearance import COLORS, Shoe
from compositional_prompts.sample.materials import FINISHES, TILE, VARIANTS, Plane, tile_of
from compositional_prompts.sample.shapes import SHAPES, Points, Shape, line_through

WIDTH: Final = 136
HEIGHT: Final = 102

_Rgb = tuple[int, int, int]
_Box = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels."""


class _Light(NamedTuple):
    """Light on the pixels of a box, 128 where it is neutral."""

    plane: npt.NDArray[np.uint8]
    box: _Box

    def within(self, box: _Box) -> npt.NDArray[np.uint8]:
        """The light on a box inside this one."""
        left, upper = self.box[:2]
        return self.plane[box[1] - upper : box[3] - upper, box[0] - left : box[2] - left]


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

# What each of the 256 values of light leaves of a tone, and what it adds of white.
_LEVELS: Final = (np.arange(256, dtype=np.float32) - 128) / 128
_DIMMING: Final = 1 + 0.92 * np.minimum(_LEVELS, 0)
_GLARE: Final = 0.8 * np.maximum(_LEVELS, 0)


class _Photo:
    """A photo in the making: the image at double size, and where shoe units lie on it."""

    def __init__(self, shape: Shape, rng: np.random.Generator) -> None:
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
        corners = self.px(line_through(low, (high[0], low[1]), high, (low[0], high[1])))
        left, upper = (4 * int(v) for v in np.maximum(corners.min(axis=0) - _MARGIN, 0) // 4)
        right, lower = (4 * int(v) for v in -(-(corners.max(axis=0) + _MARGIN) // 4))
        self.corner = (left, upper)
        self.size = (min(right, _W) - left, min(lower, _H) - upper)
        self.offset -= self.corner
        self.ground = self.px(line_through(low, (high[0], low[1])))
        tint = 255 - rng.uniform(0, 7) - rng.uniform(0, 3, 3)
        self.paper = (int(tint[0]), int(tint[1]), int(tint[2]))
        self.image = Image.new("RGB", self.size, self.paper)
        self.draw = ImageDraw.Draw(self.image)
        # Light from above, a little from the left or right.
        self.light = (float(rng.uniform(-0.5, 0.5)), -1.0)
        self.exposure = float(rng.uniform(-0.06, 0.06))
        # By identity, with the points themselves, so that no other points take their place.
        self._flat: dict[int, tuple[Points, list[float]]] = {}

    def px(self, points: Points) -> Points:
        """Map shoe units to pixels."""
        return np.asarray(points @ self.linear.T + self.offset)

    def flat(self, points: Points) -> list[float]:
        """Map shoe units to the flat pixel list that ImageDraw takes fastest.

        Most points are drawn more than once: masked, filled and outlined.
        """
        if id(points) not in self._flat:
            self._flat[id(points)] = (points, self.px(points).ravel().tolist())
        return self._flat[id(points)][1]

    def mask(self, polygons: Sequence[Points]) -> Image.Image:
        """Return a mask with the polygons filled."""
        mask = Image.new("L", self.size)
        draw = ImageDraw.Draw(mask)
        for polygon in polygons:
            draw.polygon(self.flat(polygon), fill=255)
        return mask

    def fill(self, color: _Rgb, mask: Image.Image) -> None:
        """Lay a flat colour over what the mask shows; a part is mostly a small piece of a photo."""
        if (box := mask.getbbox()) is not None:
            self.image.paste(color, box, mask.crop(box))

    def paint(self, color: _Rgb, light: _Light, mask: Image.Image) -> None:
        """Lay a tone under light over what the mask shows, all of which is lit."""
        if (box := mask.getbbox()) is not None:
            self.image.paste(_toned(light.within(box), color), box, mask.crop(box))


def _toned(light: npt.NDArray[np.uint8], color: _Rgb) -> Image.Image:
    """Return a tone under light; a palette look-up is the fastest way from one plane to RGB."""
    channel = np.array(color, dtype=np.float32)
    palette = channel * _DIMMING[:, None] + (255 - channel) * _GLARE[:, None]
    lit = np.ascontiguousarray(light)
    image = Image.frombuffer("P", lit.shape[::-1], lit, "raw", "P", 0, 1)
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


def _modelled(photo: _Photo, mask: Image.Image, strength: float) -> tuple[Plane, Plane]:
    """Return light from roundness and the depth inside the mask, both a quarter of its size.

    The mask blurred at that size stands in for a relief: its slope towards the lamp is lit.
    """
    small = mask.reduce(_REDUCED).filter(ImageFilter.GaussianBlur(2.2))
    depth: Plane = np.asarray(small, dtype=np.float32) / np.float32(255)
    slope_y, slope_x = _slope(depth), _slope(depth.T).T  # down, and to the right
    roundness = -(slope_x * photo.light[0] + slope_y * photo.light[1]) * 2.6
    sky = np.linspace(0.1, -0.14, len(depth))[:, None]
    lit = (roundness + sky) * strength + photo.exposure
    return lit.astype(np.float32), np.asarray(depth, dtype=np.float32)


def _slope(plane: Plane) -> Plane:
    """The slope from row to row, as ``np.gradient`` has it at ten times the overhead."""
    slope = np.empty_like(plane)
    slope[1:-1] = (plane[2:] - plane[:-2]) / 2
    slope[0], slope[-1] = plane[1] - plane[0], plane[-1] - plane[-2]
    return slope


_REDUCED: Final = 4
"""Light is worked out so many times smaller than it is painted."""


def _lit_box(mask: Image.Image, around: int = 0) -> _Box:
    """What must be lit of a mask, and pixels around it, as the small planes divide it."""
    left, upper, right, lower = mask.getbbox() or (0, 0, _REDUCED, _REDUCED)
    return (
        max(0, left - around) // _REDUCED * _REDUCED,
        max(0, upper - around) // _REDUCED * _REDUCED,
        -(-min(mask.width, right + around) // _REDUCED) * _REDUCED,
        -(-min(mask.height, lower + around) // _REDUCED) * _REDUCED,
    )


def _enlarged(plane: Plane, box: _Box) -> Plane:
    """The pixels of a box, of a plane enlarged to a photo: those of all of it, at a part's cost."""
    left, upper, right, lower = box
    part = (left / _REDUCED, upper / _REDUCED, right / _REDUCED, lower / _REDUCED)
    size = (right - left, lower - upper)
    image = Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR, part)
    return np.asarray(image, dtype=np.float32)


def _quantized(light: Plane, box: _Box) -> _Light:
    light = light * 127
    light += 128
    np.clip(light, 0, 255, out=light)
    return _Light(light.astype(np.uint8), box)


def _surface(photo: _Photo, shoe: Shoe, mask: Image.Image, brightness: float) -> _Light:
    """Return the light on the upper: roundness, texture and highlights."""
    finish = FINISHES[shoe.attribute]
    rng = photo.rng
    lit, depth = _modelled(photo, mask, finish.round)
    box = _lit_box(mask)
    light = _enlarged(lit, box)
    if finish.gloss:
        # The lamp's reflection follows the upper contour a little inside it; lacquer mirrors the
        # dark floor along the lower one too.
        ridge = (1.5 - np.abs(_enlarged(depth, box) - 0.8) * finish.crisp).clip(0, 1)
        facing = light * (4 / finish.round)
        floor = -0.2 if brightness > 205 else -0.4
        lowest = floor if shoe.attribute == "Patent.Leather" else 0
        light = light + ridge * facing.clip(lowest, 1) * np.float32(finish.gloss)
    width, height = photo.size
    tile = tile_of(shoe.attribute, int(rng.integers(VARIANTS)))
    row, column = rng.integers(0, (TILE - height, TILE - width)).tolist()
    relief = finish.relief
    if brightness < 60 and shoe.attribute in ("Hair.Calf", "Synthetic"):
        # Spots and holes are darker, but on a black shoe only lighter ones can be seen.
        relief = -relief
    if brightness > 205 and shoe.attribute == "Satin":
        # White can only be shaded, and with deep folds it would pass for silver.
        relief *= 0.5
        light = light + np.float32(0.08)
    left, upper, right, lower = box
    texture = tile[row + upper : row + lower, column + left : column + right]
    return _quantized(light + texture * np.float32(relief), box)


def _fray(photo: _Photo, mask: Image.Image, polygons: Sequence[Points], fuzz: str) -> None:
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


def _spaced(points: Points, gap: float) -> Points:
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
    photo.fill((120, 120, 126), soft)


def _paint_upper(photo: _Photo, shape: Shape, shoe: Shoe, tones: Mapping[str, _Rgb]) -> None:
    """Paint what lies behind, then the textured upper with its panels and contour."""
    draw = photo.draw
    for polygon, tone in shape.behind:
        color = tones[tone]
        draw.polygon(photo.flat(polygon), fill=_shaded(color, 0.82))
        draw.line(photo.flat(polygon), fill=_shaded(color, 0.5), width=2)
    mask = photo.mask(shape.upper)
    fuzz = FINISHES[shoe.attribute].fuzz
    if fuzz != "none":
        _fray(photo, mask, shape.upper, fuzz)
    light = _surface(photo, shoe, mask, sum(tones["main"]) / 3)
    photo.paint(tones["main"], light, mask)
    for polygon, tone in shape.panels:
        part = ImageChops.multiply(photo.mask([polygon]), mask)
        photo.paint(tones[tone], light, part)
    inked = Image.new("L", photo.size)
    ink = ImageDraw.Draw(inked)
    for seam in [*shape.seams, *(polygon for polygon, _ in shape.panels)]:
        ink.line(photo.flat(seam), fill=200, width=2)
    photo.fill(tones["edge"], ImageChops.multiply(inked, mask))
    if fuzz == "none":
        for polygon in shape.upper:
            flat = photo.flat(polygon)
            draw.line([*flat, *flat[:2]], fill=tones["edge"], width=2)


def _paint_soles(photo: _Photo, shape: Shape, tones: Mapping[str, _Rgb]) -> None:
    mask = photo.mask([polygon for polygon, _ in shape.soles])
    lit, _ = _modelled(photo, mask, 0.7)
    box = _lit_box(mask)
    light = _quantized(_enlarged(lit, box), box)
    for polygon, tone in shape.soles:
        color = tones[tone]
        photo.paint(color, light, photo.mask([polygon]))
        flat = photo.flat(polygon)
        photo.draw.line([*flat, *flat[:2]], fill=_shaded(color, 0.55), width=2)


def _paint_trimmings(photo: _Photo, shape: Shape, shoe: Shoe, tones: Mapping[str, _Rgb]) -> None:
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
    shape = SHAPES[shoe.object](shoe)
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
