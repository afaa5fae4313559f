"""The output of BLIP-2's frozen half as rows that are computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from compositional_prompts.captioner.model.blip2_model import Captioner, load_captioner
from compositional_prompts.captioner.model.forward import query_features
from compositional_prompts.captioner.model.half_digest import half_digest
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.compute.precision import DTYPES, ResolvedPrecision
from compositional_prompts.compute.rows.computation import Computation
from compositional_prompts.pipeline.section import QUANTIZED

FIELD = "features"


class NamedPhoto(NamedTuple):
    """An encoded photo, and what to call it in an error."""

    image_id: str
    encoded: bytes


@dataclass(frozen=True)
class FrozenFeatures(Computation):
    """Rows of one field, ``features``, ``[queries, width]``, of a :class:`NamedPhoto`.

    They are of ``dtype``; bfloat16, which numpy does not know, as uint16 of the same bits.

    Attributes:
        blip2: the model's folder.
        device: the type of a torch device.
        precision: what is computed in.
        dtype: what is stored: float16, bfloat16, or float32, which rounds nothing.
        batch_size: photos at once.
    """

    name: ClassVar[str] = "frozen_features"
    libraries: ClassVar[Sequence[str]] = ("numpy", "pillow", "torch", "torchvision", "transformers")

    blip2: Path
    device: str
    precision: ResolvedPrecision
    dtype: str
    batch_size: int

    def further_libraries(self) -> Sequence[str]:
        return ("bitsandbytes",) if self.precision.precision in QUANTIZED else ()

    def settings(self) -> Mapping[str, Any]:
        return {
            "blip2": half_digest(self.blip2, "frozen"),
            "device": self.device,
            "precision": str(self.precision),
            "dtype": self.dtype,
        }

    def start(self) -> _FrozenHalf:
        device = torch.device(self.device)
        captioner = load_captioner(self.blip2, device, self.precision.precision, "frozen")
        return _FrozenHalf(captioner, DTYPES[self.dtype])


class _FrozenHalf:
    def __init__(self, captioner: Captioner, dtype: torch.dtype) -> None:
        self._captioner = captioner
        self._dtype = dtype

    def prepare(self, value: NamedPhoto) -> tuple[str, Tensor]:
        return value.image_id, self._captioner.preprocess(decode_rgb(value.encoded))

    @torch.inference_mode()
    def compute(self, prepared: Sequence[tuple[str, Tensor]]) -> NDArray[Any]:
        """As :class:`FrozenFeatures` says.

        Raises:
            OverflowError: a feature is beyond the dtype, or not a number.
        """
        pixel_values = torch.stack([pixels for _, pixels in prepared])
        features = self._features(pixel_values).to("cpu", self._dtype)
        finite = features.isfinite().flatten(1).all(1)
        if not finite.all():
            image_id = prepared[int(finite.int().argmin())][0]
            raise OverflowError(
                f"The features of image {image_id!r} are beyond {self._dtype} or not numbers: set "
                "blip2_features.dtype to bfloat16, and blip2_features.precision to bfloat16 or "
                "float32."
            )
        return feature_rows(features)

    @torch.inference_mode()
    def try_batch(self, items: int) -> None:
        """Compute so many photos."""
        pixels = self._captioner.preprocess(Image.new("RGB", (1, 1)))
        self._features(pixels.expand(items, -1, -1, -1))

    def _features(self, pixel_values: Tensor) -> Tensor:
        captioner = self._captioner
        with captioner.autocast():
            return query_features(captioner.model, pixel_values.to(captioner.device))


def feature_rows(features: Tensor) -> NDArray[Any]:
    """Features ``[n, queries, width]`` as rows of :class:`FrozenFeatures`, structured ``[n]``."""
    bits = features.view(torch.uint16) if features.dtype == torch.bfloat16 else features
    values = bits.contiguous().numpy()
    row = np.dtype([(FIELD, values.dtype, values.shape[1:])])
    return values.reshape(len(values), -1).view(row)[:, 0]


def features_of(rows: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """The reverse of :func:`feature_rows`: ``[n, queries, width]`` of ``dtype``."""
    values = torch.from_numpy(np.ascontiguousarray(rows[FIELD]))
    return values.view(dtype) if dtype == torch.bfloat16 else values
