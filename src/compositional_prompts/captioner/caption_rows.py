"""Captions as rows that are computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from compositional_prompts.captioner.decoding.caption_generation import generate_tokens
from compositional_prompts.captioner.decoding.grammar_file import GRAMMAR_FILE, read_grammar
from compositional_prompts.captioner.decoding.sampling import image_seed
from compositional_prompts.captioner.decoding.token_automaton import TokenAutomaton, compile_grammar
from compositional_prompts.captioner.model.blip2_model import Captioner, Half, load_captioner
from compositional_prompts.captioner.model.half_digest import half_digest
from compositional_prompts.captioner.model.weight_files import ADAPTER_CONFIG
from compositional_prompts.captioner.parameters import Sampling
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.compute.precision import DTYPES, ResolvedPrecision
from compositional_prompts.compute.rows.computation import Computation
from compositional_prompts.files.digests import folder_digest
from compositional_prompts.files.outputs import MissingOutputError, require_outputs
from compositional_prompts.pipeline.section import QUANTIZED


class CaptionInput(NamedTuple):
    """What one caption is computed of.

    Attributes:
        image_id: seeds sampling.
        image: the encoded photo; or its features ``[queries, width]``, of bfloat16 the bits as
            uint16.
    """

    image_id: str
    image: bytes | NDArray[Any]


class KnownFeatures(NamedTuple):
    """Cached features that captions are computed of.

    Attributes:
        computation: the identity of what made them.
        dtype: float16, bfloat16 or float32.
        queries: of an image.
        width: of a query.
    """

    computation: str
    dtype: str
    queries: int
    width: int


@dataclass(frozen=True)
class Captions(Computation):
    """Rows of two fields of a :class:`CaptionInput`: ``tokens``, int32 ``[most there can be]``,
    filled up with ends of captions, and ``count``, int32, how many come before the first end.

    Attributes:
        blip2: the base model's folder.
        adapter: the folder of what is merged into it; None: nothing is.
        features: what they are computed of; None: of photos.
        device: the type of a torch device.
        precision: what is computed in.
        grammar: whether they are those of the grammar that lies beside the adapter.
        num_beams: as in :func:`generate_tokens`.
        length_penalty: as in :func:`generate_tokens`.
        max_new_tokens: as in :func:`generate_tokens`.
        sampling: as in :func:`generate_tokens`; a key then has the image_id in it.
        seed: of sampling.
        batch_size: images at once.
    """

    name: ClassVar[str] = "captions"
    libraries: ClassVar[Sequence[str]] = (
        "numpy",
        "peft",
        "pillow",
        "tokenizers",
        "torch",
        "torchvision",
        "transformers",
    )

    blip2: Path
    adapter: Path | None
    features: KnownFeatures | None
    device: str
    precision: ResolvedPrecision
    grammar: bool
    num_beams: int
    length_penalty: float
    max_new_tokens: int
    sampling: Sampling | None
    seed: int
    batch_size: int

    @property
    def half(self) -> Half:
        """What of the model is needed."""
        return "whole" if self.features is None else "language"

    @property
    def padded_to(self) -> int | None:
        """None on a CPU: there log-probabilities of other batches differ by a few units in the
        last place at most, which decides no token, and a batch that is filled up costs as much as
        a full one. A GPU's kernels, in bfloat16, are not so near to one another.
        """
        return None if self.device == "cpu" else self.batch_size

    def further_libraries(self) -> Sequence[str]:
        return ("bitsandbytes",) if self.precision.precision in QUANTIZED else ()

    def settings(self) -> Mapping[str, Any]:
        adapter = None if self.adapter is None else folder_digest(*adapter_files(self.adapter))
        segments = self._segments()
        written = json.dumps(segments).encode()
        return {
            "blip2": half_digest(self.blip2, self.half),
            "adapter": adapter,
            "features": None if self.features is None else self.features.computation,
            "device": self.device,
            "precision": str(self.precision),
            "grammar": None if segments is None else hashlib.sha256(written).hexdigest(),
            "num_beams": self.num_beams,
            "length_penalty": self.length_penalty,
            # Captions of a grammar end by themselves.
            "max_new_tokens": None if self.grammar else self.max_new_tokens,
            "sampling": None if self.sampling is None else self.sampling.model_dump(),
            "seed": None if self.sampling is None else self.seed,
        }

    def start(self) -> _CaptionWriter:
        digest = str(self.settings()["adapter"]), half_digest(self.blip2, self.half)
        captioner = _merged(
            self.blip2, self.adapter, self.device, self.precision, self.half, digest
        )
        segments = self._segments()
        return _CaptionWriter(
            self, captioner, None if segments is None else _automaton(captioner, segments)
        )

    def _segments(self) -> list[list[str]] | None:
        if not self.grammar:
            return None
        if self.adapter is None:
            raise ValueError("Captions by a grammar need the adapter that it was learnt with.")
        return _segments_of(self.adapter)


def adapter_files(adapter: Path) -> list[Path]:
    """The files that an adapter is loaded from, without what else lies in its folder: the grammar,
    where it comes from, the last epoch's.

    Raises:
        MissingOutputError: there is no adapter in ``adapter``.
    """
    configuration = adapter / ADAPTER_CONFIG
    require_outputs(configuration)
    return [configuration, *sorted(adapter.glob("adapter_model.*"))]


@lru_cache(maxsize=1)
def _merged(
    blip2: Path,
    adapter: Path | None,
    device: str,
    precision: ResolvedPrecision,
    half: Half,
    digest: tuple[str, str],
) -> Captioner:
    """The captioner with its adapter merged into it, which captions by the grammar and free ones
    share; ``digest`` tells states of the files apart.
    """
    captioner = load_captioner(blip2, torch.device(device), precision.precision, half)
    if adapter is not None:
        # Here, since the untrained model does without PEFT, whose import takes half a second.
        from compositional_prompts.captioner.model.lora import load_adapter

        load_adapter(captioner, adapter)
    return captioner


def grammar_of(captioner: Captioner, adapter: Path) -> TokenAutomaton:
    """The grammar that was learnt with the adapter, for the captioner's tokenizer.

    Raises:
        MissingOutputError: the adapter has none.
        ValueError: it cannot be read, or written token by token.
    """
    return _automaton(captioner, _segments_of(adapter))


def _segments_of(adapter: Path) -> list[list[str]]:
    segments = read_grammar(adapter)
    if segments is None:
        raise MissingOutputError(
            f"{adapter / GRAMMAR_FILE} is missing: without it, set infer.grammar to false "
            "(--no-grammar).",
            adapter / GRAMMAR_FILE,
        )
    return segments


def _automaton(captioner: Captioner, segments: Sequence[Sequence[str]]) -> TokenAutomaton:
    return compile_grammar(segments, captioner.tokenizer, captioner.end_of_caption)


class _CaptionWriter:
    def __init__(
        self, computation: Captions, captioner: Captioner, grammar: TokenAutomaton | None
    ) -> None:
        self._computation = computation
        self._captioner = captioner
        self._grammar = grammar

    def prepare(self, value: CaptionInput) -> tuple[str, Tensor]:
        features = self._computation.features
        if features is None:
            assert isinstance(value.image, bytes)  # as the class says
            return value.image_id, self._captioner.preprocess(decode_rgb(value.image))
        queries = torch.from_numpy(np.array(value.image))
        dtype = DTYPES[features.dtype]
        return value.image_id, queries.view(dtype) if dtype == torch.bfloat16 else queries

    def compute(self, prepared: Sequence[tuple[str, Tensor]]) -> NDArray[Any]:
        """As :class:`Captions` says.

        Raises:
            ValueError: the language model has too few positions for a caption, or cannot be held
                to a grammar.
        """
        seeds = [image_seed(self._computation.seed, image_id) for image_id, _ in prepared]
        tokens = self._tokens(torch.stack([image for _, image in prepared]), seeds, ending=True)
        ended = tokens == self._captioner.end_of_caption
        rows = np.empty(
            len(tokens), [("tokens", np.int32, (tokens.shape[1],)), ("count", np.int32)]
        )
        rows["tokens"] = tokens.numpy()
        rows["count"] = (~ended).int().cumprod(1).sum(1).numpy()
        return rows

    def try_batch(self, items: int) -> None:
        """Write so many captions as long as they may be."""
        features = self._computation.features
        image = (
            self._captioner.preprocess(Image.new("RGB", (1, 1)))
            if features is None
            else torch.zeros(features.queries, features.width, dtype=DTYPES[features.dtype])
        )
        self._tokens(image.repeat(items, *[1] * image.ndim), range(items), ending=False)

    def _tokens(self, images: Tensor, seeds: Sequence[int], *, ending: bool) -> Tensor:
        computation = self._computation
        return generate_tokens(
            self._captioner,
            images,
            num_beams=computation.num_beams,
            max_new_tokens=computation.max_new_tokens,
            length_penalty=computation.length_penalty,
            sampling=computation.sampling,
            seeds=seeds,
            grammar=self._grammar,
            graphs=True,
            ending=ending,
        ).cpu()
