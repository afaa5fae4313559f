"""How words are scored: what ``word_scorer`` learnt, as a folder of safetensors and JSON.

Every method is a linear one, so that scoring a photo is a matrix product:

=========  =====================================================================================
cosine     the cosine of photo and bare word, as the report
zero_shot  CLIP's logit scale times the cosine of photo and word in several templates (Radford et
           al., 2021, section 3.1.4)
pixels     the logarithm of the share of the foreground's pixels that are nearest to the word's
           colour
probe      multinomial logistic regression on the CLIP vector and, of colours, on the foreground's
=========  =====================================================================================

Scores are cosines, or of the other three methods the natural logarithms of probabilities as they
come, before calibration.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from compositional_prompts.enhancement.calibration.temperature import Temperature
from compositional_prompts.enhancement.colors.color_tables import GroupColors
from compositional_prompts.enhancement.colors.foreground_colors import BINS, Palette
from compositional_prompts.enhancement.parameters import Method
from compositional_prompts.enhancement.word_choice import Choice, choose, score_words
from compositional_prompts.files.digests import file_checksum
from compositional_prompts.files.outputs import (
    DamagedOutputError,
    atomic_directory,
    require_outputs,
)
from compositional_prompts.files.tensors.finite_numbers import require_finite_values

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 2
"""Of the files; another one is refused."""

CHECKSUM = "checksum"
"""In the configuration: the CRC-32 of the rest of it, that of the weights included."""

SMOOTHING = 0.001
"""Share of the pixels that every word has beside its own, so that logarithms are finite."""

Vectors = NDArray[np.float32]


def color_features(colors: Vectors) -> Vectors:
    """What is linear in the scores: square roots of the histogram, logarithms of the votes.

    Of square roots the scalar product is Bhattacharyya's coefficient, the usual likeness of two
    histograms; the votes are those of the baseline, smoothed by :data:`SMOOTHING`.

    Args:
        colors: float32 ``[n, 245 + words]``, as in :data:`GroupColors`.

    Returns:
        float32, of the same shape.
    """
    words = colors.shape[1] - BINS
    votes = (colors[:, BINS:] + np.float32(SMOOTHING)) / np.float32(1 + words * SMOOTHING)
    return np.hstack([np.sqrt(colors[:, :BINS]), np.log(votes)])


def log_softmax(logits: Vectors) -> Vectors:
    """Natural logarithms of the softmax over the last axis, in the dtype of ``logits``."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalised: Vectors = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


@dataclass(frozen=True)
class GroupScorer:
    """The words of one group.

    Attributes:
        words: the vocabulary.
        method: how they are scored.
        vectors: of the bare words, L2-normalised float32 ``[words, d]``.
        image_weights: of image vectors, float32 ``[words, d]``, or None without.
        color_weights: of :func:`color_features`, float32 ``[words, 245 + words]``, or None without.
        bias: float32 ``[words]``, or None without.
        calibration: what makes scores probabilities that hold on validation images; None where
            nothing calibrates.
        abstain_below: the least probability at which a word is written, above 1 where none is;
            None writes at any.
    """

    words: tuple[str, ...]
    method: Method
    vectors: Vectors
    image_weights: Vectors | None = None
    color_weights: Vectors | None = None
    bias: Vectors | None = None
    calibration: Temperature | None = None
    abstain_below: float | None = None

    @property
    def needs_colors(self) -> bool:
        """Whether scores take the colours of the foreground."""
        return self.color_weights is not None

    def scores(self, vectors: Vectors, colors: Vectors | None = None) -> Vectors:
        """Of images and words.

        Args:
            vectors: of images, L2-normalised float32 ``[n, d]``.
            colors: of the same images and this group, float32 ``[n, 245 + words]`` as in
                :data:`GroupColors`; may be None where ``needs_colors`` is not.

        Returns:
            float32 ``[n, words]``: cosines, or natural logarithms of probabilities.

        Raises:
            ValueError: the vectors are of another width, or there are no colours.
        """
        if self.method == "cosine":
            return score_words(vectors, {"": self.vectors})[""]
        logits = np.zeros((len(vectors), len(self.words)), np.float32)
        if self.image_weights is not None:
            logits += score_words(vectors, {"": self.image_weights})[""]
        if self.color_weights is not None:
            if colors is None:
                raise ValueError(
                    f"the words {', '.join(self.words[:3])}, ... are scored by the method "
                    f"{self.method}, which needs the colours of the photos: run the stage colors."
                )
            logits += color_features(colors) @ self.color_weights.T
        if self.bias is not None:
            logits += self.bias
        return log_softmax(logits)

    def probabilities(self, scores: Vectors) -> Vectors | None:
        """Calibrated ones, float32 ``[n, words]``, or None where nothing calibrates.

        They sum to 1 less the share of images of which no word of the group is true.

        Args:
            scores: as :meth:`scores` gives them.
        """
        return None if self.calibration is None else self.calibration.probabilities(scores)

    def choose(self, scores: Vectors, threshold: float) -> Choice:
        """The best word of every image, and whether it is to be written.

        Args:
            scores: as :meth:`scores` gives them.
            threshold: ``enhance.threshold``, which is of cosines.
        """
        return choose(
            scores,
            self.words,
            threshold if self.method == "cosine" else None,
            self.probabilities(scores),
            self.abstain_below,
        )


def pixel_scorer(words: Sequence[str], vectors: Vectors) -> GroupScorer:
    """The method ``pixels`` for one group.

    Args:
        words: the vocabulary.
        vectors: of the bare words, L2-normalised float32 ``[words, d]``.
    """
    weights = np.eye(len(words), BINS + len(words), BINS, dtype=np.float32)
    return GroupScorer(tuple(words), "pixels", vectors, None, weights)


@dataclass(frozen=True)
class WordScorer:
    """The words of every group.

    Attributes:
        groups: by name, in the order of the prompt.
        palettes: of the groups of colours, the reference colours by word.
    """

    groups: Mapping[str, GroupScorer]
    palettes: Mapping[str, Palette] = field(default_factory=dict)

    @property
    def words(self) -> dict[str, tuple[str, ...]]:
        """By group."""
        return {name: group.words for name, group in self.groups.items()}

    @property
    def needs_colors(self) -> bool:
        """Whether a group's scores take the colours of the foreground."""
        return any(group.needs_colors for group in self.groups.values())

    def scores(self, vectors: Vectors, colors: GroupColors | None = None) -> dict[str, Vectors]:
        """By group, as :meth:`GroupScorer.scores`.

        Cosines come out of one product with the words of all groups, whatever the methods of the
        others are, so that their last digits are always the same.
        """
        bare = {name: group.vectors for name, group in self.groups.items()}
        cosines = score_words(vectors, bare)
        return {
            name: cosines[name]
            if group.method == "cosine"
            else group.scores(vectors, None if colors is None else colors.get(name))
            for name, group in self.groups.items()
        }

    def with_groups(self, groups: Mapping[str, GroupScorer]) -> WordScorer:
        """The same with some groups replaced."""
        return replace(self, groups=dict(self.groups) | dict(groups))

    def save(self, directory: Path) -> None:
        """Write the folder; it appears whole or not at all.

        Raises:
            ValueError: a number is not finite, or a tensor has not a row for each word.
        """
        tensors: dict[str, Vectors] = {}
        groups = []
        for name, group in self.groups.items():
            groups.append(
                {
                    "name": name,
                    "words": list(group.words),
                    "method": group.method,
                    "calibration": group.calibration and asdict(group.calibration),
                    "abstain_below": group.abstain_below,
                    "palette": [
                        {"word": word, "rgb": rgb.tolist()}
                        for word, rgb in self.palettes.get(name, {}).items()
                    ],
                }
            )
            tensors |= {
                f"{name}/{part}": np.ascontiguousarray(values)
                for part in _TENSORS
                if (values := getattr(group, part)) is not None
            }
        for place, values in tensors.items():
            require_finite_values(f"what was learnt of words, {place}", values)
            words = self.words[place.rpartition("/")[0]]
            if len(values) != len(words):
                raise ValueError(f"{place} has {len(values)} rows for {len(words)} words")
        with atomic_directory(directory) as temporary:
            save_file(tensors, temporary / WEIGHTS_FILE)
            (temporary / WEIGHTS_FILE).chmod(0o644)  # safetensors writes for the owner only
            weights = file_checksum(temporary / WEIGHTS_FILE)
            config = {"format": FORMAT, "groups": groups, WEIGHTS_FILE: weights}
            config |= {CHECKSUM: _checksum(config)}
            text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False)
            (temporary / CONFIG_FILE).write_text(f"{text}\n", encoding="utf-8")


_TENSORS = ("vectors", "image_weights", "color_weights", "bias")


def load_word_scorer(directory: Path) -> WordScorer:
    """Read what :meth:`WordScorer.save` wrote.

    Raises:
        MissingOutputError: a file is not there.
        DamagedOutputError: a file is damaged, of another format, or not as it was written.
    """
    config_file, weights_file = directory / CONFIG_FILE, directory / WEIGHTS_FILE
    require_outputs(config_file, weights_file)
    with _as_damage(config_file):
        config = json.loads(config_file.read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise ValueError(f"its format is {config['format']!r}, expected {FORMAT}")
        if config.pop(CHECKSUM) != _checksum(config):
            raise ValueError("its checksum is another")
    with _as_damage(weights_file):
        if config[WEIGHTS_FILE] != file_checksum(weights_file):
            raise ValueError("its checksum is another")
        tensors = load_file(weights_file)
    groups = {one["name"]: _group(one, tensors) for one in config["groups"]}
    palettes = {
        one["name"]: {color["word"]: np.array(color["rgb"], np.uint8) for color in one["palette"]}
        for one in config["groups"]
        if one["palette"]
    }
    return WordScorer(groups, palettes)


@contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise DamagedOutputError(
            f"{path} is no whole part of a word scorer ({type(error).__name__}: {error}).", path
        ) from error


def _checksum(config: Mapping[str, Any]) -> str:
    """CRC-32 of a configuration, 8 hexadecimal digits, however it is laid out in its file."""
    text = json.dumps(config, sort_keys=True, ensure_ascii=False)
    return f"{zlib.crc32(text.encode(errors='surrogatepass')):08x}"


def _group(config: Mapping[str, Any], tensors: Mapping[str, Vectors]) -> GroupScorer:
    found = {part: tensors.get(f"{config['name']}/{part}") for part in _TENSORS[1:]}
    return GroupScorer(
        tuple(config["words"]),
        config["method"],
        tensors[f"{config['name']}/{_TENSORS[0]}"],
        **found,
        calibration=config["calibration"] and Temperature(**config["calibration"]),
        abstain_below=config["abstain_below"],
    )
