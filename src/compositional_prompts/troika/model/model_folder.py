"""A trained model on disk: its trainable tensors and what they belong to.

The directory holds ``config.json`` and, where something was trained, ``best.safetensors`` (the
epoch that validation chose) and ``last.safetensors``. Nothing of CLIP is saved; a fingerprint
tells whether the CLIP at hand is the one that was trained upon.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.files.outputs import (
    MismatchedOutputsError,
    atomic_directory,
)
from compositional_prompts.files.records.json_objects import read_json_object
from compositional_prompts.files.tensors.finite_numbers import require_finite_weights
from compositional_prompts.prompt.pair import pair_name
from compositional_prompts.troika.model.network import Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary

FORMAT = 1
"""Version of the layout."""

CONFIG_FILE = "config.json"
BEST_FILE = "best.safetensors"
LAST_FILE = "last.safetensors"


class CheckpointError(MismatchedOutputsError):
    """A saved model does not fit the vocabulary, the CLIP or the code at hand."""


def clip_fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's tensors, by name, and of its activation functions.

    The activations count because the same weights with GELU in the place of QuickGELU load
    without complaint and give other features.
    """
    digest = hashlib.sha256()
    activations = {type(part).__name__ for name, part in model.named_modules() if "gelu" in name}
    digest.update(json.dumps(sorted(activations)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        content = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {content.dtype} {tuple(content.shape)}".encode())
        digest.update(content.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class TrainedState:
    """What training leaves behind.

    Attributes:
        best: trained tensors by name after the chosen epoch.
        last: trained tensors by name after the last epoch.
        best_epoch: the chosen epoch, counted from 1.
        epochs: epochs that were run.
    """

    best: Mapping[str, Tensor]
    last: Mapping[str, Tensor]
    best_epoch: int
    epochs: int


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)


def save_model(
    directory: Path,
    vocabulary: Vocabulary,
    clip: Clip,
    config: TroikaConfig,
    state: TrainedState | None,
) -> None:
    """Write a model directory, whole or not at all; without ``state`` it says ``trained: false``.

    Args:
        directory: where to; replaced if it is there.
        vocabulary: the pairs that were trained upon.
        clip: the CLIP that was trained upon.
        config: the architecture.
        state: the outcome of training, or None.
    """
    document: dict[str, Any] = {
        "format": FORMAT,
        "trained": state is not None,
        "clip": {"fingerprint": clip_fingerprint(clip.model)},
        "config": asdict(config),
        "vocabulary": vocabulary.as_json(),
    }
    if state is not None:
        document["epochs"] = state.epochs
        document["best_epoch"] = state.best_epoch
    with atomic_directory(directory) as temporary:
        (temporary / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n")
        if state is not None:
            _save_tensors(state.best, temporary / BEST_FILE)
            _save_tensors(state.last, temporary / LAST_FILE)


def _require_same_vocabulary(saved: Vocabulary, given: Vocabulary, directory: Path) -> None:
    for kind, ours, theirs in _trained_upon(saved, given):
        if ours != theirs:
            lost = sorted(set(ours) - set(theirs))
            new = sorted(set(theirs) - set(ours))
            raise CheckpointError(
                f"{directory} was trained with other {kind} than pairs.parquet lists: "
                f"only in the model {lost[:5]}, only in the table {new[:5]}.",
                directory,
            )


def _trained_upon(
    saved: Vocabulary, given: Vocabulary
) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """What must be the same of both, by kind."""
    yield "attributes", saved.attributes, given.attributes
    yield "objects", saved.objects, given.objects
    yield "seen pairs", _seen_pairs(saved), _seen_pairs(given)


def _seen_pairs(vocabulary: Vocabulary) -> tuple[str, ...]:
    return tuple(
        pair_name(attribute, name)
        for (attribute, name), seen in zip(vocabulary.pairs, vocabulary.seen, strict=True)
        if seen
    )


def vocabulary_to_name(directory: Path, pairs: Path) -> Vocabulary:
    """What the model in a folder names in a data set: the pairs of ``pairs.parquet``.

    A kept model, whose catalogue has grown since, names those whose words it knows, and its own.

    Args:
        directory: what ``troika_train`` wrote.
        pairs: ``pairs.parquet``.

    Raises:
        MissingOutputError: the directory has no ``config.json``.
        CheckpointError: its layout is another one, or it knows none of the pairs.
    """
    listed = Vocabulary.read(pairs)
    document = read_config(directory)
    if not document["trained"]:
        return listed  # zero-shot CLIP names whatever there is
    own = Vocabulary.from_json(document["vocabulary"], directory / CONFIG_FILE)
    if all(ours == theirs for _, ours, theirs in _trained_upon(own, listed)):
        return listed
    named = own.of_kept_model(listed)
    if not set(named.pairs) & set(listed.pairs):
        raise CheckpointError(
            f"{directory} knows the words of none of the {len(listed.pairs)} pairs that {pairs} "
            f"lists, but {', '.join(map(repr, own.attributes[:3]))}, ...: it was trained on "
            "another data set. Set troika_train.mode to train.",
            directory,
        )
    return named


def read_config(directory: Path) -> dict[str, Any]:
    """What ``config.json`` of a model's folder says, as :func:`save_model` wrote it.

    Raises:
        MissingOutputError, DamagedOutputError: it is not there, or no JSON object.
        CheckpointError: its layout is another one.
    """
    path = directory / CONFIG_FILE
    document = read_json_object(path)
    if document.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {document.get('format')!r}, expected {FORMAT}.", path
        )
    return document


def load_trained_tensors(model: Troika, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Put trained tensors into ``model``.

    Raises:
        CheckpointError: a tensor is missing, left over or of another shape; it is named.
    """
    expected = model.trained_state()
    missing = sorted(set(expected) - set(tensors))
    extra = sorted(set(tensors) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"{source} does not hold this model's tensors: missing {missing[:5]}, "
            f"left over {extra[:5]}.",
            source,
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{source}: tensor {name} is {list(tensor.shape)}, expected "
                f"{list(expected[name].shape)}.",
                source,
            )
    model.load_state_dict(dict(tensors), strict=False)


def load_model(directory: Path, vocabulary: Vocabulary, clip: Clip) -> Troika | None:
    """The trained model in evaluation mode, or None where nothing was trained.

    Unseen pairs may differ from those of training; attributes, objects and seen pairs may not.

    Raises:
        MissingOutputError: the directory has no ``config.json``.
        DamagedOutputError: the tensors are no whole file, or a number of them is not finite.
        CheckpointError: the vocabulary, the CLIP, a tensor or the layout is another one.
    """
    path = directory / CONFIG_FILE
    document = read_config(directory)
    if not document["trained"]:
        return None
    _require_same_vocabulary(
        Vocabulary.from_json(document["vocabulary"], path), vocabulary, directory
    )
    fingerprint = clip_fingerprint(clip.model)
    if document["clip"]["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{directory} was trained on the CLIP {document['clip']['fingerprint'][:12]}, "
            f"but the CLIP at hand is {fingerprint[:12]}.",
            directory,
        )
    require_finite_weights(directory / BEST_FILE)
    model = Troika(clip, vocabulary, TroikaConfig(**document["config"]))
    load_trained_tensors(model, load_file(directory / BEST_FILE), directory / BEST_FILE)
    return model.eval()
