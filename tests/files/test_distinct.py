"""Distinct values of a stream, beside a set that keeps them whole."""

import numpy as np

from compositional_prompts.files.distinct import Distinct


def test_what_came_before_is_known_however_long_ago() -> None:
    rng = np.random.default_rng(0)
    values = [f"photo {n}.jpg".encode() for n in rng.integers(0, 15_000, 40_000).tolist()]
    distinct, kept = Distinct(), set[bytes]()
    for value in values:
        assert distinct.add(value) == (value not in kept)
        kept.add(value)
    assert len(distinct) == len(kept) > 10_000
    assert not any(map(distinct.add, values))
    assert distinct.add(b"")
    assert not distinct.add(b"")
