"""Whether a photo can enter the catalog, as rows that are computed once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compositional_prompts.catalog.images import Checked
from compositional_prompts.compute.rows.computation import Computation
from compositional_prompts.datasets.image_limits import PHOTO_REASONS, judge_photo

CHECKED = np.dtype([("reason", np.int8), ("width", np.int32), ("height", np.int32)])

_SOUND = -1


@dataclass(frozen=True)
class ImageCheck(Computation):
    """Rows of the place of the reason in ``PHOTO_REASONS``, -1 where there is none (int8), and
    of the upright image's width and height in pixels, 0 where it is rejected (int32).

    Attributes:
        max_pixels: the largest width times height that is accepted.
    """

    name: ClassVar[str] = "image_check"
    in_processes: ClassVar[bool] = True
    may_crash: ClassVar[bool] = True  # bytes of strangers, decoded in C

    max_pixels: int

    def settings(self) -> Mapping[str, Any]:
        return {"max_pixels": self.max_pixels}

    def start(self) -> _CheckWorker:
        # Pillow warns of odd metadata beside pixels that are fine; the reasons say what is wrong.
        warnings.simplefilter("ignore")
        return _CheckWorker(self.max_pixels)


class _CheckWorker:
    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels

    def prepare(self, value: bytes) -> Checked:
        """
        Raises:
            MemoryError: it ran out, which says nothing of the photo, and must not be kept.
        """
        return judge_photo(value, self._max_pixels)

    def compute(self, prepared: Sequence[Checked]) -> NDArray[Any]:
        rows = np.zeros(len(prepared), CHECKED)
        for row, checked in zip(rows, prepared, strict=True):
            reason = checked.reason
            row["reason"] = _SOUND if reason is None else PHOTO_REASONS.index(reason)
            row["width"], row["height"] = checked.width, checked.height
        return rows


def reason_in(row: Any) -> str | None:
    """The reason that a row of :data:`CHECKED` has, or None."""
    return None if row["reason"] == _SOUND else PHOTO_REASONS[row["reason"]]
