"""Free-form wording of what is true of a shoe: pretraining captions and product titles.

Captions never use the enhanced prompt's "with C color and M material": that format is what
fine-tuning teaches later.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from compositional_prompts.sample.appearance import Shoe

# Natural names of each type as (singular, plural).
_NOUNS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = MappingProxyType(
    {
        "Boots.Ankle": (("ankle boot", "ankle boots"), ("short boot", "short boots")),
        "Boots.Knee.High": (
            ("knee-high boot", "knee-high boots"),
            ("knee high boot", "knee high boots"),
            ("tall boot", "tall boots"),
        ),
        "Boots.Mid-Calf": (("mid-calf boot", "mid-calf boots"), ("calf boot", "calf boots")),
        "Sandals": (("sandal", "sandals"), ("open sandal", "open sandals")),
        "Shoes.Boat.Shoes": (("boat shoe", "boat shoes"), ("deck shoe", "deck shoes")),
        "Shoes.Clogs.and.Mules": (
            ("clog", "clogs"),
            ("mule", "mules"),
            ("backless clog", "backless clogs"),
        ),
        "Shoes.Flats": (("flat", "flats"), ("ballet flat", "ballet flats")),
        "Shoes.Heels": (("heel", "heels"), ("pump", "pumps"), ("heeled pump", "heeled pumps")),
        "Shoes.Loafers": (("loafer", "loafers"),),
        "Shoes.Oxfords": (
            ("oxford", "oxfords"),
            ("oxford shoe", "oxford shoes"),
            ("dress shoe", "dress shoes"),
        ),
        "Shoes.Sneakers.and.Athletic.Shoes": (
            ("sneaker", "sneakers"),
            ("athletic shoe", "athletic shoes"),
            ("trainer", "trainers"),
            ("running shoe", "running shoes"),
        ),
        "Slippers": (("slipper", "slippers"), ("house slipper", "house slippers")),
    }
)
_ANY_NOUN: Final = (("shoe", "shoes"), ("shoe", "shoes"), ("piece of footwear", "footwear"))

_CLOSURE_ADJECTIVES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "lace-up": ("lace-up", "laced"),
        "slip-on": ("slip-on", "slip-on"),
        "buckle": ("buckled", "buckle"),
        "velcro": ("velcro", "velcro-strap"),
        "zip": ("zip-up", "zipped"),
    }
)
_CLOSURE_PHRASES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "lace-up": ("with laces", "that lace up", "with a lace-up front"),
        "slip-on": ("without fastenings", "in a slip-on style", "easy to slip on"),
        "buckle": ("with a buckle", "with a buckled strap", "with a metal buckle"),
        "velcro": ("with a velcro strap", "with velcro", "with a velcro closure"),
        "zip": ("with a zip", "with a side zip", "with a zipper"),
    }
)
_HEEL_ADJECTIVES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "flat": "flat-soled",
        "low": "low-heeled",
        "medium": "mid-heeled",
        "high": "high-heeled",
    }
)
_HEEL_PHRASES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "flat": ("with a flat sole", "flat heel", "with a flat heel"),
        "low": ("with a low heel", "low heel", "on a low heel"),
        "medium": ("with a medium heel", "medium heel", "on a mid-height heel"),
        "high": ("with a high heel", "high heel", "on high heels"),
    }
)
_OPENINGS: Final = (
    "",
    "",
    "",
    "a photo of ",
    "an image of ",
    "a picture of ",
    "product photo of ",
    "a studio shot of ",
    "a side view of ",
)
# The white ground is named seldom: in most captions "white" has to mean the shoe.
_ENDINGS: Final = (
    *([""] * 10),
    " on a white background",
    " on a plain background",
    ", side view",
    ", side view",
    ", studio photo",
    ", studio photo",
    " for sale",
    " for sale",
)


def spoken(name: str) -> str:
    """Return a label as words: `Full.grain.leather` -> `full grain leather`."""
    return name.replace(".", " ").lower()


def caption(shoe: Shoe, rng: np.random.Generator) -> str:
    """Return one true, varied, lower-case English caption of a shoe.

    Each fact is stated with a fixed probability (colour about 3 in 4, fine material 7 in 10,
    material family 9 in 20, type 4 in 5, closure and heel 1 in 5), in one of several word orders.
    """
    stated = {
        "color": rng.random() < 0.79,
        "fine": rng.random() < 0.74,
        "family": rng.random() < 0.47,
        "type": rng.random() < 0.85,
        "closure": rng.random() < 0.2,
        "heel": rng.random() < 0.2,
    }
    if not (stated["color"] or stated["fine"] or stated["family"] or stated["type"]):
        stated["color"] = True
    form = rng.random()
    if form < 0.07:
        return _bare(shoe, rng)
    if form < 0.24:
        return _listing(shoe, stated, rng)
    if form < 0.42:
        return _sentence(shoe, stated, rng)
    return _phrase(shoe, stated, rng)


def title(shoe: Shoe) -> str:
    """Return a short shop title, such as `Canvas lace-up sneakers, white`."""
    noun = _NOUNS[shoe.object][0][1]
    closure = _CLOSURE_ADJECTIVES[shoe.closure][0]
    return f"{spoken(shoe.attribute).capitalize()} {closure} {noun}, {shoe.color}"


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _noun(shoe: Shoe, stated: Mapping[str, bool], rng: np.random.Generator) -> tuple[str, str]:
    """Return (singular, plural) of the type's name, or of any shoe's where it is not stated."""
    if not stated["type"]:
        return _ANY_NOUN[int(rng.integers(len(_ANY_NOUN)))]
    if rng.random() < 0.2:
        literal = spoken(shoe.object)
        return literal, literal
    names = _NOUNS[shoe.object]
    return names[int(rng.integers(len(names)))]


def _bare(shoe: Shoe, rng: np.random.Generator) -> str:
    """One fact as a bare word, as a zero-shot classifier asks for it."""
    noun = _NOUNS[shoe.object][0][int(rng.integers(2))]
    words = (shoe.color, shoe.color, spoken(shoe.attribute), shoe.material, shoe.material, noun)
    return _pick(words, rng)


def _listing(shoe: Shoe, stated: Mapping[str, bool], rng: np.random.Generator) -> str:
    """Facts in any order, separated by commas."""
    singular, plural = _noun(shoe, stated, rng)
    fine = spoken(shoe.attribute)
    parts: list[str] = []
    if stated["type"]:
        parts.append(_pick((singular, plural, plural), rng))
    if stated["color"]:
        parts.append(
            _pick((shoe.color, f"{shoe.color} color", f"color: {shoe.color}", shoe.color), rng)
        )
    if stated["fine"]:
        parts.append(_pick((fine, fine, f"{fine} upper", f"made of {fine}"), rng))
    if stated["family"]:
        family = shoe.material
        parts.append(
            _pick((family, f"{family} material", f"material: {family}", f"{family} footwear"), rng)
        )
    if stated["closure"]:
        parts.append(_CLOSURE_ADJECTIVES[shoe.closure][0])
    if stated["heel"]:
        parts.append(f"{shoe.heel_height} heel")
    order = rng.permutation(len(parts))
    return ", ".join(parts[i] for i in order)


def _sentence(shoe: Shoe, stated: Mapping[str, bool], rng: np.random.Generator) -> str:
    """A full sentence: these oxfords are made of patent leather and come in black."""
    singular, plural = _noun(shoe, stated, rng)
    many = rng.random() < 0.6
    if many:
        subject, is_, comes, has = plural, "are", "come", "have"
    else:
        subject, is_, comes, has = singular, "is", "comes", "has"
    determiner = _pick(("these", "the"), rng) if many else _pick(("this", "the"), rng)
    fine, family = spoken(shoe.attribute), shoe.material
    claims: list[str] = []
    before = ""
    if stated["color"]:
        if rng.random() < 0.4:
            before = f"{shoe.color} "
        else:
            claims.append(_pick((f"{is_} {shoe.color}", f"{comes} in {shoe.color}"), rng))
    if stated["fine"]:
        if not before and rng.random() < 0.3:
            before = f"{fine} "
        else:
            claims.append(
                _pick((f"{is_} made of {fine}", f"{is_} in {fine}", f"{has} a {fine} upper"), rng)
            )
    if stated["family"]:
        claims.append(
            _pick((f"{is_} made from {family}", f"{has} a {family} upper", f"{is_} {family}"), rng)
        )
    if stated["closure"]:
        claims.append(f"{comes} {_CLOSURE_PHRASES[shoe.closure][0]}".replace(" that ", " to "))
    if stated["heel"]:
        claims.append(f"{has} a {shoe.heel_height} heel")
    if not claims:
        claims.append(_pick((f"{is_} on a plain background", f"{is_} seen from the side"), rng))
    order = [claims[i] for i in rng.permutation(len(claims))]
    joined = order[0] if len(order) == 1 else ", ".join(order[:-1]) + " and " + order[-1]
    return f"{determiner} {before}{subject} {joined}"


def _phrase(shoe: Shoe, stated: Mapping[str, bool], rng: np.random.Generator) -> str:
    """A noun phrase with facts before and after the noun: white canvas sandals with a buckle."""
    singular, plural = _noun(shoe, stated, rng)
    fine, family = spoken(shoe.attribute), shoe.material
    before: list[str] = []
    after: list[str] = []
    if stated["color"]:
        if rng.random() < 0.75:
            before.append(shoe.color)
        else:
            after.append(_pick((f"in {shoe.color}", f"{shoe.color} in color"), rng))
    if stated["fine"]:
        if rng.random() < 0.7:
            before.append(fine)
        else:
            after.append(_pick((f"made of {fine}", f"in {fine}", f"of {fine}"), rng))
    if stated["family"]:
        if fine not in before and rng.random() < 0.6:
            before.append(family)
        else:
            after.append(
                _pick((f"made from {family}", f"{family} upper", f"{family} material"), rng)
            )
    if stated["closure"]:
        if rng.random() < 0.5:
            before.append(_pick(_CLOSURE_ADJECTIVES[shoe.closure], rng))
        else:
            after.append(_pick(_CLOSURE_PHRASES[shoe.closure], rng))
    if stated["heel"]:
        if rng.random() < 0.4:
            before.append(_HEEL_ADJECTIVES[shoe.heel_height])
        else:
            after.append(_pick(_HEEL_PHRASES[shoe.heel_height], rng))
    # English puts colour before material; now and then shoppers do not.
    if rng.random() < 0.2:
        before = [before[i] for i in rng.permutation(len(before))]
    after = [after[i] for i in rng.permutation(len(after))]
    head = " ".join([*before, ""])
    number = rng.random()
    if number < 0.3:
        core = f"a pair of {head}{plural}"
    elif number < 0.65:
        core = f"{head}{plural}"
    elif number < 0.8:
        core = f"{head}{singular}"
    else:
        core = _with_article(f"{head}{singular}")
    text = core
    for part in after:
        # Bare noun phrases ("high heel", "leather upper") hang on by a comma.
        joiner = " " if part.split()[0] in _LINKS else ", "
        text += f"{joiner}{part}"
    return f"{_pick(_OPENINGS, rng)}{text}{_pick(_ENDINGS, rng)}"


_LINKS: Final = frozenset({"with", "in", "made", "of", "that", "on", "without"})


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"
