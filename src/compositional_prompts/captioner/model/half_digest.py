"""What decides the output of a half of BLIP-2, by the content of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from compositional_prompts.captioner.model.blip2_model import DROPPED, Half
from compositional_prompts.captioner.model.weight_files import weight_files
from compositional_prompts.files.digests import folder_digest
from compositional_prompts.files.outputs import require_outputs

CONFIGURATION = "config.json"
IMAGE_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
"""Where checkpoints of different years say how an image becomes pixels."""

TEXTS = (".json", ".jinja", ".model", ".txt")
"""Endings of the files of a tokenizer, a processor and of generation."""


def half_digest(blip2: Path, half: Half) -> str:
    """SHA-256 of the tensors of a half of BLIP-2 and of the files that it is loaded by.

    Tensors count by name, dtype, shape and values, however they are spread over files: another
    language model leaves the frozen half what it was. Read once a process, as long as no file
    changes.

    Args:
        blip2: folder in transformers' layout.
        half: ``frozen``: vision tower, Q-Former, and how images are prepared for them;
            ``language``: projection, language model, tokenizer and generation; or ``whole``.

    Raises:
        FileNotFoundError: the configuration or a file of weights is missing.
        ValueError: a file of weights is not in safetensors' format.
    """
    require_outputs(blip2 / CONFIGURATION)
    weights = weight_files(blip2)
    others = [path for path in _described_by(blip2, half) if path not in weights]
    stamp = tuple(
        (path, status.st_size, status.st_mtime_ns, status.st_ino)
        for path in (*weights, *others)
        for status in (path.stat(),)
    )
    return _digest(tuple(weights), tuple(others), half, stamp)


def _described_by(blip2: Path, half: Half) -> Iterator[Path]:
    named = {CONFIGURATION, *IMAGE_PROCESSOR}
    for path in sorted(blip2.iterdir()):
        texts = half != "frozen" and path.suffix in TEXTS and not path.name.endswith(".index.json")
        if path.is_file() and (path.name in named or texts):
            yield path


@cache
def _digest(
    weights: tuple[Path, ...], others: tuple[Path, ...], half: Half, stamp: tuple[object, ...]
) -> str:
    digests = []
    for path in weights:
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    if not name.startswith(tuple(f"{part}." for part in DROPPED[half])):
                        tensor: torch.Tensor = tensors.get_tensor(name)
                        values = tensor.reshape(-1).contiguous().view(torch.uint8).numpy()
                        said = f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode()
                        digests.append(said + hashlib.sha256(values.data).digest())
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from error
    whole = hashlib.sha256(b"".join(sorted(digests)))
    whole.update(folder_digest(*others).encode())
    return whole.hexdigest()
