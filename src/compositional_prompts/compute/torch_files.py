"""A state dict out of a file of ``torch.save``, without running anything that is in it."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts put the state dict beside other things."""

PARALLEL_PREFIX = "module."
"""What ``nn.DataParallel`` puts before every name."""


class TorchFileError(ValueError):
    """The file holds no state dict, or more than weights."""


def _globals_of(path: Path) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # Whatever is broken in the file, its loading says it in better words.
        return []


def _damage(path: Path) -> str | None:
    """The first member of the archive whose checksum is wrong; torch does not look at them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except Exception as error:  # What is raised depends on where the damage lies.
        return str(error)


def _load(path: Path) -> object:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is {'a folder' if path.is_dir() else 'missing'}.")
    if not zipfile.is_zipfile(path):
        raise TorchFileError(
            f"{path} is no checkpoint as torch has written them since 1.6 (a zip archive): it is "
            "cut short, something else, or older. An older one is to be loaded and saved again by "
            "a newer torch, with weights_only=True."
        )
    if damage := _damage(path):
        raise TorchFileError(f"{path} is damaged ({damage}): copy or download it again.")
    if unsafe := _globals_of(path):
        raise TorchFileError(
            f"{path} holds more than weights, and Python code is not run from a checkpoint: it "
            f"asks for {', '.join(unsafe[:5])}. Save `model.state_dict()` alone."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript archives, which are an error anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The content decides what is raised: a broken archive, pickle or tensor.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise TorchFileError(
            f"{path} cannot be read as weights alone ({reason[:200]}): it is damaged, a "
            "TorchScript archive, or holds more than tensors. Save `model.state_dict()` alone."
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict by name, on the CPU.

    It may lie under one of :data:`WRAPPERS`; the prefix of ``nn.DataParallel`` is taken off.

    Raises:
        FileNotFoundError: there is no such file.
        TorchFileError: the file is no zip archive of ``torch.save``, is damaged, asks for Python
            code (which is never run), or holds something else than dense tensors by name.
    """
    content = _load(path)
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        found = "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise TorchFileError(f"{path} holds {found}, expected tensors by name (a state dict).")
    for name, value in content.items():
        if not isinstance(name, str):
            raise TorchFileError(f"{path}: expected tensors by name, found the key {name!r}.")
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise TorchFileError(
                f"{path}: {name!r} is {getattr(value, 'layout', type(value).__name__)}, expected a "
                "dense tensor. Save `model.state_dict()` alone."
            )
    if all(name.startswith(PARALLEL_PREFIX) for name in content):
        return {name.removeprefix(PARALLEL_PREFIX): value for name, value in content.items()}
    return dict(content)
