"""What a shoe product of the sample data set is: its vocabulary and how one is drawn at random.

The words are those of UT-Zappos50K, so that everything downstream meets the same names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

COLORS: Final = (
    "black",
    "white",
    "brown",
    "red",
    "blue",
    "green",
    "yellow",
    "pink",
    "grey",
    "orange",
    "purple",
    "beige",
)

# Fine material (the attribute of a pair) -> coarse family (the material a classifier names).
FAMILIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Canvas": "fabric",
        "Cotton": "fabric",
        "Faux.Fur": "synthetic",
        "Faux.Leather": "synthetic",
        "Full.grain.leather": "leather",
        "Hair.Calf": "leather",
        "Leather": "leather",
        "Nubuck": "leather",
        "Nylon": "fabric",
        "Patent.Leather": "leather",
        "Rubber": "rubber",
        "Satin": "fabric",
        "Sheepskin": "leather",
        "Suede": "leather",
        "Synthetic": "synthetic",
        "Wool": "fabric",
    }
)
ATTRIBUTES: Final = tuple(FAMILIES)


@dataclass(frozen=True, slots=True)
class Kind:
    """What one object type may be: materials of its catalog pairs, closures and heel heights.

    Closures and heels are listed with repeats: an entry listed twice is twice as likely.
    """

    materials: tuple[str, ...]
    closures: tuple[str, ...]
    heels: tuple[str, ...]


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "Boots.Ankle": Kind(
            (
                "Leather",
                "Suede",
                "Nubuck",
                "Faux.Leather",
                "Full.grain.leather",
                "Patent.Leather",
                "Rubber",
                "Sheepskin",
            ),
            ("lace-up", "lace-up", "zip", "buckle", "slip-on"),
            ("flat", "low", "low", "medium", "high"),
        ),
        "Boots.Knee.High": Kind(
            ("Leather", "Suede", "Faux.Leather", "Rubber", "Patent.Leather", "Synthetic"),
            ("zip", "zip", "slip-on", "buckle"),
            ("flat", "low", "medium", "high"),
        ),
        "Boots.Mid-Calf": Kind(
            (
                "Leather",
                "Suede",
                "Sheepskin",
                "Rubber",
                "Faux.Fur",
                "Nylon",
                "Wool",
                "Full.grain.leather",
            ),
            ("zip", "slip-on", "lace-up", "buckle"),
            ("flat", "flat", "low", "medium"),
        ),
        "Sandals": Kind(
            (
                "Leather",
                "Rubber",
                "Synthetic",
                "Canvas",
                "Nubuck",
                "Satin",
                "Nylon",
                "Patent.Leather",
            ),
            ("buckle", "buckle", "velcro", "slip-on"),
            ("flat", "flat", "low", "medium", "high"),
        ),
        "Shoes.Boat.Shoes": Kind(
            ("Leather", "Canvas", "Nubuck", "Full.grain.leather", "Suede", "Cotton"),
            ("lace-up",),
            ("flat",),
        ),
        "Shoes.Clogs.and.Mules": Kind(
            ("Leather", "Rubber", "Suede", "Wool", "Nubuck", "Hair.Calf", "Synthetic"),
            ("slip-on", "slip-on", "buckle"),
            ("low", "medium"),
        ),
        "Shoes.Flats": Kind(
            (
                "Leather",
                "Patent.Leather",
                "Satin",
                "Canvas",
                "Hair.Calf",
                "Cotton",
                "Suede",
                "Faux.Leather",
            ),
            ("slip-on", "slip-on", "buckle"),
            ("flat",),
        ),
        "Shoes.Heels": Kind(
            (
                "Patent.Leather",
                "Satin",
                "Leather",
                "Suede",
                "Faux.Leather",
                "Hair.Calf",
                "Synthetic",
            ),
            ("slip-on", "slip-on", "buckle"),
            ("medium", "high", "high"),
        ),
        "Shoes.Loafers": Kind(
            (
                "Leather",
                "Suede",
                "Patent.Leather",
                "Nubuck",
                "Full.grain.leather",
                "Hair.Calf",
                "Faux.Leather",
            ),
            ("slip-on", "slip-on", "buckle"),
            ("flat", "low"),
        ),
        "Shoes.Oxfords": Kind(
            ("Leather", "Full.grain.leather", "Patent.Leather", "Canvas", "Suede", "Wool"),
            ("lace-up",),
            ("flat", "low"),
        ),
        "Shoes.Sneakers.and.Athletic.Shoes": Kind(
            (
                "Canvas",
                "Nylon",
                "Synthetic",
                "Leather",
                "Suede",
                "Cotton",
                "Faux.Leather",
                "Wool",
            ),
            ("lace-up", "lace-up", "lace-up", "velcro", "slip-on"),
            ("flat",),
        ),
        "Slippers": Kind(
            ("Sheepskin", "Wool", "Cotton", "Faux.Fur", "Satin", "Suede"),
            ("slip-on", "slip-on", "slip-on", "velcro"),
            ("flat",),
        ),
    }
)
OBJECTS: Final = tuple(KINDS)

# Shops sell more black and brown than purple; the skew is mild so that every colour is common.
_COLOR_WEIGHTS: Final[Mapping[str, float]] = MappingProxyType({"black": 2.0, "brown": 1.6})
# Rank shift of the Zipf law: without it the rarest of 80-odd pairs would have no product at all
# in a catalog of 2,400 images.
_ZIPF_SHIFT: Final = 4.0

# Tones of soles and trims beside the main colour, as the names that rendering knows.
_SOLE_TONES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Shoes.Boat.Shoes": ("white", "cream", "gum"),
        "Shoes.Clogs.and.Mules": ("wood", "wood", "black", "cork"),
        "Shoes.Sneakers.and.Athletic.Shoes": ("white", "white", "black", "gum", "any", "grey"),
        "Sandals": ("cork", "black", "gum", "cream", "same"),
        "Slippers": ("gum", "cream", "black", "grey"),
    }
)
_OTHER_SOLE_TONES: Final = ("black", "black", "darkbrown", "gum", "same")
_ACCENT_TONES: Final = ("white", "white", "black", "cream", "same", "any")
_LINING_TONES: Final = ("cream", "tan", "grey", "black")


@dataclass(frozen=True, slots=True)
class Style:
    """Proportions that all images of a product share; floats are in [0, 1], 0.5 is average."""

    height: float
    toe: float
    sole: float
    girth: float
    detail: int


@dataclass(frozen=True, slots=True)
class Shoe:
    """One shoe as photographed: its labels, its proportions and the tones beside its colour."""

    object: str
    attribute: str
    color: str
    closure: str
    heel_height: str
    style: Style
    sole_tone: str
    accent_tone: str
    lining_tone: str

    @property
    def material(self) -> str:
        """Coarse material family: leather, fabric, rubber or synthetic."""
        return FAMILIES[self.attribute]


@dataclass(frozen=True, slots=True)
class Product:
    """One product: everything but the colours it is sold in."""

    object: str
    attribute: str
    closure: str
    heel_height: str
    style: Style


@dataclass(frozen=True, slots=True)
class PairDistribution:
    """Long-tailed distribution over (attribute, object) pairs, most frequent first."""

    pairs: tuple[tuple[str, str], ...]
    cumulative: tuple[float, ...]

    def at(self, quantile: float) -> tuple[str, str]:
        """Return the (attribute, object) pair at a quantile in [0, 1)."""
        index = int(np.searchsorted(self.cumulative, quantile, side="right"))
        return self.pairs[min(index, len(self.pairs) - 1)]


def catalog_pairs(seed: int) -> PairDistribution:
    """Rank the plausible pairs by `seed` and give them Zipf-like shares.

    The set of pairs is fixed; the seed decides which are common and which are rare.
    """
    pairs = [(material, name) for name, kind in KINDS.items() for material in kind.materials]
    order = np.random.default_rng([seed, len(pairs)]).permutation(len(pairs))
    weights = 1.0 / (np.arange(1, len(pairs) + 1) + _ZIPF_SHIFT)
    cumulative = np.cumsum(weights / weights.sum())
    return PairDistribution(tuple(pairs[i] for i in order), tuple(cumulative.tolist()))


def sample_product(object_: str, attribute: str, rng: np.random.Generator) -> Product:
    """Draw closure, heel and proportions of a product of the given type and fine material."""
    kind = KINDS[object_]
    return Product(
        object=object_,
        attribute=attribute,
        closure=_pick(kind.closures, rng),
        heel_height=_pick(kind.heels, rng),
        style=Style(
            height=rng.random(),
            toe=rng.random(),
            sole=rng.random(),
            girth=rng.random(),
            detail=int(rng.integers(6)),
        ),
    )


def sample_colors(count: int, rng: np.random.Generator) -> list[str]:
    """Draw `count` different colours, the common shop colours first more often."""
    weights = np.array([_COLOR_WEIGHTS.get(color, 1.0) for color in COLORS])
    chosen = rng.choice(len(COLORS), size=count, replace=False, p=weights / weights.sum())
    return [COLORS[i] for i in chosen]


def in_color(product: Product, color: str, rng: np.random.Generator) -> Shoe:
    """Return the product in a colour, with sole, accents and lining in tones of their own."""
    return Shoe(
        object=product.object,
        attribute=product.attribute,
        color=color,
        closure=product.closure,
        heel_height=product.heel_height,
        style=product.style,
        sole_tone=_pick(_SOLE_TONES.get(product.object, _OTHER_SOLE_TONES), rng),
        accent_tone=_pick(_ACCENT_TONES, rng),
        lining_tone=_pick(_LINING_TONES, rng),
    )


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
