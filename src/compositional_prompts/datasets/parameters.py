"""Parameters of the stage ``download``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails

from compositional_prompts.datasets.dataset import DataSet
from compositional_prompts.datasets.registry import DATASETS
from compositional_prompts.pipeline.section import Fraction, NonNegative, Positive, Section


class MaxRejected(Section):
    """How many images of a data set may be set aside: the larger of a share and a number."""

    share: Fraction
    count: NonNegative

    def allows(self, rejected: int, images: int) -> bool:
        """Whether ``rejected`` of ``images`` may be set aside."""
        return rejected <= max(self.share * images, self.count)


def _share_and_count(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError(
            f"must be a share and a number of images, of which the larger counts: "
            f"{{share: {value:g}, count: 3}}"
        )
    return value


class Download(Section):
    """What holds of any data set, and beside it the section of each data set that has one there.

    Only the chosen one's must be there; all that are there are checked.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, object]

    section: ClassVar[str] = "download"

    dataset: str
    max_rejected: Annotated[MaxRejected, BeforeValidator(_share_and_count)]
    max_pixels: Positive
    shard_mib: Annotated[int, Field(ge=1, le=4096)]

    @field_validator("dataset")
    @classmethod
    def _registered(cls, name: str) -> str:
        known = [one.name for one in DATASETS]
        if name not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return name

    @model_validator(mode="after")
    def _type_data_sets(self) -> Download:
        known = {one.name: one for one in DATASETS}
        problems = []
        sections = self.__pydantic_extra__
        if self.dataset not in sections:
            problems.append(InitErrorDetails(type="missing", loc=(self.dataset,), input=None))
        for name, values in sections.items():
            if name not in known:
                problems.append(InitErrorDetails(type="extra_forbidden", loc=(name,), input=values))
                continue
            try:
                sections[name] = known[name].model_validate(values)
            except ValidationError as error:
                problems += [_under(name, problem) for problem in error.errors()]
        if problems:
            raise ValidationError.from_exception_data("download", problems)
        return self

    @property
    def chosen(self) -> DataSet:
        """The data set to download, with its parameters."""
        chosen = self.__pydantic_extra__[self.dataset]
        assert isinstance(chosen, DataSet)
        return chosen


def _under(name: str, problem: ErrorDetails) -> InitErrorDetails:
    """A problem of a data set's section, as one of this section."""
    return InitErrorDetails(
        type=problem["type"],
        loc=(name, *problem["loc"]),
        input=problem["input"],
        ctx=problem.get("ctx", {}),
    )
