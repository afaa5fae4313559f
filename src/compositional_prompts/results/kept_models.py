"""Models that stay while a catalogue grows: where they lie, and by what they came to be.

``compositional-prompts keep`` fills a folder for each, a dependency of its stage, with

- :data:`MODEL`: a folder of the files that its stage had written;
- :data:`ORIGIN_FILE`: by which data, when and with what result it was trained (:class:`Origin`);
- :data:`CONTENTS_FILE`: the photos that were there then.

A stage whose ``mode`` is ``keep`` writes the files of the model once more, the same bytes as when
they were trained, so that nothing after it is stale; it trains nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from compositional_prompts.files.outputs import MismatchedOutputsError, atomic_directory
from compositional_prompts.files.tables import required
from compositional_prompts.files.tensors.finite_numbers import require_finite_weights

MODEL = "model"
ORIGIN_FILE = "origin.json"
CONTENTS_FILE = "contents.parquet"
FORMAT = 1

CONTENTS = pa.schema([required("content", pa.binary(16)), required("trained", pa.bool_())])
"""``contents.parquet``: every photo of the catalogue that a model was trained from, by the digest
of its encoded bytes, sorted; and whether the model learnt from it, or it was held out."""


class KeptModelError(MismatchedOutputsError):
    """There is no kept model, or it does not fit what it is to be used with."""


@dataclass(frozen=True)
class Origin:
    """By what a model came to be.

    Attributes:
        kept: when it was kept, UTC, as ISO 8601 has it.
        commit: the first commit whose ``dvc.lock`` has the model, or None before there is one;
        committed: and its date.
        images: of the catalogue that it was trained from,
        train_images: and those that it learnt from.
        inputs: MD5 of what its stage read, by path, from ``dvc.lock``.
        params: its stage's section, as it was trained by.
        training: what its stage measured.
        measured: what was measured of it on test images, as ``summary.json`` has it.
        attributes: that it knows, sorted, none where labels are objects alone; so
        objects: and
        pairs: Attribute_Object, or Object, and
        words: of every attribute group, in the order of the vocabulary; none for Troika.
        unsure_below: of a pair's probability, and of the lead of each group's word over the next:
            what nine of ten photos that were held out had at least.
        base: digest of the model that an adapter was trained on; Troika's files have that of its.
    """

    kept: str
    commit: str | None
    committed: str | None
    images: int
    train_images: int
    inputs: Mapping[str, str]
    params: Mapping[str, Any]
    training: Mapping[str, Any]
    measured: Mapping[str, Any]
    attributes: Sequence[str]
    objects: Sequence[str]
    pairs: Sequence[str]
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unsure_below: Mapping[str, float] = field(default_factory=dict)
    base: str | None = None

    def metrics(self) -> dict[str, Any]:
        """What metrics of a kept model tell of it: all but the words that it knows.

        Numbers among parameters are texts, since metrics are rounded.
        """
        told = asdict(self)
        told["params"] = _as_texts(told["params"])
        for name in ("inputs", "attributes", "objects", "pairs", "words", "unsure_below", "base"):
            del told[name]
        return told


def _as_texts(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_texts(item) for item in value]
    return str(value) if isinstance(value, float) else value


def write_origin(origin: Origin, directory: Path) -> None:
    """Write :data:`ORIGIN_FILE` into a folder that is being made."""
    document = {"format": FORMAT, **asdict(origin)}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (directory / ORIGIN_FILE).write_text(text, encoding="utf-8")


def read_origin(source: Path) -> Origin | None:
    """The origin of a kept model, or None where ``source`` holds none, as a stage trains.

    Raises:
        KeptModelError: the file is not an origin.
    """
    path = source / ORIGIN_FILE
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        expected = {"format", *(part.name for part in fields(Origin))}
        if not isinstance(document, dict) or document.keys() != expected:
            raise ValueError(f"expected the keys {', '.join(sorted(expected))}")
        if document.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        return Origin(**document)
    except ValueError as error:
        raise KeptModelError(
            f"{path} does not say where a kept model comes from ({error}): fetch it again with "
            "`dvc pull`, or keep a model anew with `compositional-prompts keep`.",
            path,
        ) from error


def kept_model(source: Path, section: str) -> tuple[Path, Origin]:
    """The folder of a kept model's files, and its origin.

    Args:
        source: the folder that ``compositional-prompts keep`` fills.
        section: of ``params.yaml``, whose ``mode`` asks for the model.

    Raises:
        KeptModelError: it is not there, or not whole.
    """
    origin = read_origin(source)
    lacking = [name for name in (MODEL, CONTENTS_FILE) if not (source / name).exists()]
    if origin is None or lacking:
        raise KeptModelError(
            f"{section}.mode is keep, and {source / (lacking[0] if lacking else ORIGIN_FILE)} is "
            f"missing: fetch the kept model with `dvc pull {source.parent}`, or set {section}.mode "
            "to train, run `dvc repro`, and then `compositional-prompts keep`.",
            source,
        )
    return source / MODEL, origin


def copy_model(folder: Path, model: Path) -> None:
    """Write a model's files as its stage's output: whole, and the same bytes.

    Args:
        folder: of the files.
        model: where to; replaced if it is there.

    Raises:
        DamagedOutputError: weights are no whole file, or a number of them is not finite.
    """
    require_finite_weights(*sorted(folder.rglob("*.safetensors")))
    with atomic_directory(model) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True)


def kept_metrics(origin: Origin) -> dict[str, Any]:
    """What the stage of a kept model writes as its metrics; no losses, as none were measured."""
    return {
        "mode": "keep",
        "origin": origin.metrics(),
        "train_images": origin.train_images,
        **({"parameters": found} if (found := origin.training.get("parameters")) else {}),
    }
