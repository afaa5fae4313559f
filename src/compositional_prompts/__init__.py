"""From product photos with a thin label to rich captions, and a BLIP-2 that writes them.

The names below are what others can build on: docs/library.md has an example of each. Each is
imported when it is first asked for, so that none costs what it does not need, torch least of all.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

__version__ = "0.2.0"

# Threads that wait for one another sleep: beside other work, spinning ones take its time, and
# several times their own. OpenMP reads this once, when torch is imported; who has set it keeps it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _is_ours(started: str) -> bool:
    """Whether the program is a stage or the command, and not one that imports the package."""
    program = Path(started)
    if program.name == "-m":  # so it is called while Python looks for the module
        return not {__name__, f"-m{__name__}"}.isdisjoint(sys.orig_argv)
    return program.parent.name == "stages" or program.name == "compositional-prompts"


def _is_worker() -> bool:
    """Whether :mod:`multiprocessing` has started this process, which has its parent's arguments."""
    return not sys.modules.keys().isdisjoint(
        {"multiprocessing.spawn", "multiprocessing.forkserver"}
    )


if _is_ours(next(iter(sys.argv), "")) and threading.current_thread() is threading.main_thread():
    # While they import, for seconds, Ctrl-C ends them without a traceback of whatever is imported
    # just then; from pipeline/interruption.py on it is met.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What imports make, a million objects with torch, is no garbage; looking for some takes a sixth
    # of their time. From pipeline/garbage.py on it is looked for.
    if not _is_worker():
        gc.disable()

_PUBLIC: Final = {
    "PromptTemplate": "prompt.template",
    "ReadableText": "prompt.readable_text",
    "Wishes": "deployment.wishes",
    "caption_photos": "deployment.captioning",
    "decode_rgb": "catalog.images",
    "iterate_batches": "catalog.reading",
    "load_captioner": "captioner.model.blip2_model",
    "load_clip": "clip.open_clip_model",
    "read_all_params": "project.whole_params",
    "score_texts": "prompt.text_metrics",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
