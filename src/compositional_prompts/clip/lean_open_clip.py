"""open_clip, imported without what its own models do not need: half the start of a stage with CLIP.

open_clip takes transformers and timm wherever they are installed, for towers of theirs, and its
torchvision takes torch's compiler for a question that is asked only when regions are pooled. Here
all three wait until they are needed. Modules of this package import open_clip from here.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo.utils"


@contextmanager
def _without(*libraries: str) -> Iterator[None]:
    """Let those that are not imported yet look as if they were not installed.

    None in ``sys.modules`` is Python's own way to say so, and open_clip does without them.
    """
    hidden = [name for name in libraries if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


class _WhenAsked(ModuleType):
    """Stands for a module until something of it is asked for, and then gives way to it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of every module by inspect
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _is_compile_supported(device_type: str) -> bool:
    supported: bool = importlib.import_module(_COMPILER).is_compile_supported(device_type)
    return supported


@contextmanager
def _compiler_when_called() -> Iterator[None]:
    """Let ``from torch._dynamo.utils import is_compile_supported`` give a function that imports
    the compiler when it is called; whatever else is taken from there imports it at once.
    """
    if _COMPILER in sys.modules:
        yield
        return
    module = _WhenAsked(_COMPILER)
    vars(module)["is_compile_supported"] = _is_compile_supported
    sys.modules[_COMPILER] = module
    try:
        yield
    finally:
        if sys.modules.get(_COMPILER) is module:
            del sys.modules[_COMPILER]


with _compiler_when_called():
    import torchvision  # noqa: F401 - before open_clip imports it
with _without("timm", "transformers"):
    import open_clip
    from open_clip import CLIP, hf_model, timm_model
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.transform import merge_preprocess_dict
    from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer

__all__ = [
    "CLIP",
    "QuickGELU",
    "ResidualAttentionBlock",
    "VisionTransformer",
    "merge_preprocess_dict",
    "open_clip",
    "provide_towers",
    "set_model_preprocess_cfg",
]


def provide_towers(model_config: Mapping[str, Any]) -> None:
    """Import what the towers of a model need: transformers for its texts or timm for its images.

    Call it before open_clip builds the model.

    Args:
        model_config: open_clip's ``model_cfg``.
    """
    text = model_config.get("text_cfg", {}).get("hf_model_name")
    image = model_config.get("vision_cfg", {}).get("timm_model_name")
    if text and hf_model.transformers is None:
        # The module runs again in the same namespace, so that classes others hold see it too.
        importlib.reload(hf_model)
    if image and timm_model.timm is None:
        importlib.reload(timm_model)
