"""Damage to bytes, as a list of single harms from which those that do not matter can be taken."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MOST_HARMS = 3
HEADER_BYTES = 64
LONG_RUN = 4096
NAN = b"\x00\x00\xc0\x7f"
"""Of float32; files of weights and vectors begin a number at every fourth byte."""


@dataclass(frozen=True)
class Harm:
    """One change of a file.

    Attributes:
        kind: a name of :data:`KINDS`.
        place: where, as a share of the length.
        length: of how many bytes.
        seed: of what stands there then.
    """

    kind: str
    place: float
    length: int
    seed: int

    def __str__(self) -> str:
        return f"{self.kind} at {self.place:.4f} of it ({self.length} bytes, seed {self.seed})"


def _cut(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    return content[:place]


def _behead(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    return content[length:]


def _flip(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _noise(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    return content[:place] + rng.randbytes(length) + content[place + length :]


def _zeros(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    return content[:place] + bytes(length) + content[place + length :]


def _ones(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    return content[:place] + b"\xff" * length + content[place + length :]


def _drop(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    return content[:place] + content[place + length :]


def _repeat(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    return content[: place + length] + content[place:]


def _swap(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    other = rng.randrange(len(content) + 1)
    low, high = sorted((place, other))
    length = min(length, high - low)
    return b"".join(
        (
            content[:low],
            content[high : high + length],
            content[low + length : high],
            content[low : low + length],
            content[high + length :],
        )
    )


def _header(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(min(length, 8)):
        if changed:
            changed[rng.randrange(min(HEADER_BYTES, len(changed)))] = rng.randrange(256)
    return bytes(changed)


def _end(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(min(length, 8)):
        if changed:
            changed[-1 - rng.randrange(min(HEADER_BYTES, len(changed)))] = rng.randrange(256)
    return bytes(changed)


def _nan(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    place -= place % len(NAN)
    return content[:place] + NAN + content[place + len(NAN) :] if content else content


def _empty(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    return b""


def _other(content: bytes, place: int, length: int, rng: random.Random) -> bytes:
    samples = (
        b"\x89PNG\r\n\x1a\n",
        b"PK\x03\x04",
        b"PAR1",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"a,b\n",
    )
    return rng.choice(samples) + rng.randbytes(rng.choice((0, 0, 64)))


_Change = Callable[[bytes, int, int, random.Random], bytes]
KINDS: dict[str, _Change] = {
    "cut": _cut,
    "behead": _behead,
    "flip": _flip,
    "noise": _noise,
    "zeros": _zeros,
    "ones": _ones,
    "drop": _drop,
    "repeat": _repeat,
    "swap": _swap,
    "header": _header,
    "end": _end,
    "nan": _nan,
    "empty": _empty,
    "other": _other,
}


def random_harms(rng: random.Random) -> list[Harm]:
    """One to three harms, most often one."""
    count = rng.choices(range(1, MOST_HARMS + 1), (6, 2, 1))[0]
    return [
        Harm(
            rng.choice(list(KINDS)),
            rng.random(),
            min(LONG_RUN, int(rng.paretovariate(0.6))),
            rng.randrange(2**16),
        )
        for _ in range(count)
    ]


def harmed(content: bytes, harms: Sequence[Harm]) -> bytes:
    """The content after the harms, one upon the other."""
    for harm in harms:
        place = min(int(harm.place * len(content)), max(len(content) - 1, 0))
        content = KINDS[harm.kind](content, place, harm.length, random.Random(harm.seed))
    return content


def smallest(harms: Sequence[Harm], fails: Callable[[Sequence[Harm]], bool]) -> list[Harm]:
    """As few harms as fail still, each as short as fails still; that ``harms`` fail is given."""
    found = list(harms)
    for harm in list(found):
        fewer = [one for one in found if one is not harm]
        if fewer and fails(fewer):
            found = fewer
    for place, harm in enumerate(found):
        while harm.length > 1:
            shorter = Harm(harm.kind, harm.place, harm.length // 4 or 1, harm.seed)
            if not fails([*found[:place], shorter, *found[place + 1 :]]):
                break
            found[place] = harm = shorter
    return found
