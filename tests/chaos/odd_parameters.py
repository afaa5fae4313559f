"""Parameters as nobody would write them, from the types that they have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st

from compositional_prompts.pipeline.section import Section
from compositional_prompts.project.whole_params import Params

HUGE = 10**18
FLOATS = (0.0, -0.0, -1.0, 1e-300, 1e300, math.inf, -math.inf, math.nan, 0.5, 1.0, 2.0)
WHOLE = (0, -1, 1, 2, 2**31, 2**63, HUGE)
TEXTS = (
    "", " ", "null", "../../etc", "/dev/null", "/proc/self/mem", "a\nb", "=1+1", "{}", "{", "{0}",
    "{a.b}", "\u202egnp", "e\u0301", "\x00", "[", "(", "*" * 300, "\U0001f45f", "~", "-rf", "%s",
    "$(true)",
)  # fmt: skip
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(WHOLE),
    st.sampled_from(FLOATS),
    st.sampled_from(TEXTS),
    st.just([]),
    st.just({}),
    st.just([None]),
)
"""Values of any type."""

LEFT_OUT = ("base.launcher", "base.engine", "base.ray", "base.rows.path")
"""What starts other programs, a cluster, or writes where it is told to."""

SOURCES = ("download",)
"""Sections of which only some keys are asked about: the rest is that of data sets not chosen."""


def keys(section: type[Section], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Every parameter of a section by its dotted name: its type, and what bounds it."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, field in section.model_fields.items():
        whole = f"{prefix}{name}"
        if whole.startswith(LEFT_OUT):
            continue
        found[whole] = (field.annotation, field.metadata)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            found |= keys(inner, f"{whole}.")
    return found


def parameters() -> dict[str, tuple[Any, Any]]:
    """Every parameter of ``params.yaml`` that is asked about."""
    return keys(Params)


def values(annotation: Any, bounds: Any = ()) -> st.SearchStrategy[Any]:
    """Values of a type at its bounds and beyond, seldom ones of another type."""
    fitting = _fitting(annotation, list(bounds))
    return st.one_of(fitting, fitting, fitting, ODD)


def _fitting(annotation: Any, bounds: list[Any]) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _fitting(arguments[0], [*bounds, *arguments[1:]])
    if origin in (Union, UnionType):
        return st.one_of([_fitting(each, bounds) for each in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(_fitting(arguments[0], []), max_size=3)
    if origin in (dict, Mapping):
        return st.dictionaries(st.sampled_from(TEXTS), _fitting(arguments[1], []), max_size=2)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return st.fixed_dictionaries(
            {
                name: _fitting(field.annotation, list(field.metadata))
                for name, field in annotation.model_fields.items()
            }
        )
    return _simple(annotation, bounds)


def _simple(annotation: Any, bounds: list[Any]) -> st.SearchStrategy[Any]:
    edges = [value for one in bounds for value in _edges(one)]
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        whole = [int(edge) + step for edge in edges for step in (-1, 0, 1)]
        return st.one_of(st.sampled_from([*WHOLE, *whole]), st.integers(0, 64))
    if annotation is float:
        near = [edge + step for edge in edges for step in (-1e-9, 0.0, 1e-9)]
        return st.one_of(st.sampled_from([*FLOATS, *near]), st.floats(0, 1))
    if annotation is str:
        return st.one_of(st.sampled_from(TEXTS), st.text(max_size=8))
    if annotation is NoneType:
        return st.none()
    return ODD


def _edges(bound: Any) -> list[float]:
    found = [getattr(bound, name, None) for name in ("ge", "gt", "le", "lt")]
    found += [edge for inner in getattr(bound, "metadata", ()) for edge in _edges(inner)]
    return [edge for edge in found if isinstance(edge, int | float)]
