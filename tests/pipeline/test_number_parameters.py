"""Numbers among the parameters: finite and in range, whichever section they stand in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

import compositional_prompts.project.whole_params as whole_params
from compositional_prompts.captioner.parameters import Finetune, Infer
from compositional_prompts.datasets.registry import DATASETS
from compositional_prompts.pipeline.section import Section
from compositional_prompts.troika.parameters import BranchWeights, TroikaTrain

BEYOND = {
    float: (math.nan, math.inf, -math.inf, 1e300, -1e300),
    int: (10**30, -(10**30)),
}


def sections(kind: type[Section] = Section) -> Iterator[type[Section]]:
    """Every section there is: what the whole file is made of, and every data set's."""
    for one in kind.__subclasses__():
        if one.__module__.startswith("compositional_prompts."):
            yield one
        yield from sections(one)


def admitted(annotation: Any) -> set[type]:
    """The kinds of numbers that a type admits, whatever they are wrapped in."""
    parts = getattr(annotation, "__args__", ())
    return {annotation} & set(BEYOND) | {kind for part in parts for kind in admitted(part)}


def wrapped(annotation: Any, value: Any) -> Any:
    """A number, or the list of one that a field asks for."""
    lists = "list" in str(annotation).lower()
    return [value] if lists else value


FIELDS = [
    pytest.param(section, name, field, id=f"{section.__name__}.{name}")
    for section in dict.fromkeys(sections())
    for name, field in section.model_fields.items()
    if admitted(field.annotation)
]


def test_the_sections_of_every_stage_and_data_set_are_walked() -> None:
    walked = set(sections())
    assert {*DATASETS, whole_params.Params, Infer, Finetune} <= walked
    assert len(FIELDS) > 80


@pytest.mark.parametrize(("section", "name", "field"), FIELDS)
def test_no_field_takes_a_number_that_is_none_or_beyond_all_use(
    section: type[Section], name: str, field: FieldInfo
) -> None:
    for kind in admitted(field.annotation):
        for value in BEYOND[kind]:
            with pytest.raises(ValidationError) as refused:
                section.model_validate({name: wrapped(field.annotation, value)})
            assert any(problem["loc"][:1] == (name,) for problem in refused.value.errors()), value


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (Finetune, "learning_rate", 10.0),
        (Finetune, "label_smoothing", 1.0),
        (TroikaTrain, "learning_rate", 10.0),
        (TroikaTrain, "lr_gamma", 2.0),
        (TroikaTrain, "adapter_dropout", 1.0),
        (TroikaTrain, "attribute_dropout", 1.0),
        (TroikaTrain, "disentangler_dropout", 1.0),
        (TroikaTrain, "traction_dropout", 1.0),
        (Infer, "length_penalty", 1e9),
        (Infer, "batch_size", 10**30),
        (Infer, "batch_size", math.nan),
    ],
)
def test_a_number_that_learns_or_decides_nothing_is_refused(
    section: type[Section], name: str, value: float
) -> None:
    with pytest.raises(ValidationError) as refused:
        section.model_validate({name: value})
    assert (name,) in [problem["loc"] for problem in refused.value.errors()]


def test_loss_weights_that_are_all_0_are_refused() -> None:
    with pytest.raises(ValidationError, match="nothing would be learnt"):
        BranchWeights(composition=0.0, attribute=0.0, object=0.0)
