"""Counts, in every process of a pipeline, the processor time that checks take, or leaves them out.

:func:`hook` gives the sources of a project, which are what its stages' Python finds first, a
``sitecustomize`` that loads this file. It is loaded alone, and so imports nothing but what Python
brings.
"""

from __future__ import annotations

import atexit
import functools
import importlib.abc
import importlib.util
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import util
from pathlib import Path
from types import ModuleType
from typing import Any, Final

PACKAGE: Final = "compositional_prompts"

CHECKS: Final[Mapping[str, tuple[str, ...]]] = {
    "files.tensors.finite_numbers": (
        "require_finite_weights",
        "require_finite_rows",
        "require_finite_values",
    ),
    "files.digests": ("file_checksum",),
    "datasets.image_limits": ("_made_too_large",),
    "prompt.text_form": ("require_said", "require_distinct_words"),
    "project.between_sections": ("faults", "doubts"),
    "project.data_checks": ("judge_data",),
}
"""By module, what is there to find what is wrong."""

ANSWERS: Final = frozenset({"file_checksum", "faults", "doubts", "judge_data"})
"""Checks whose answer is written to a file: they are never left out."""

FOLDER: Final = "CHECK_TIMES_FOLDER"
LEFT_OUT: Final = "CHECKS_LEFT_OUT"

_here = threading.local()
_seconds: Counter[str] = Counter()
_calls: Counter[str] = Counter()


def hook(sources: Path, folder: Path, left_out: bool) -> dict[str, str]:
    """Have the checks of a project counted, or left out.

    Args:
        sources: ``src`` of the project.
        folder: new; what is counted is written there.
        left_out: leave the checks out, but for those of :data:`ANSWERS`.

    Returns:
        Variables of the environment that its stages are to be run in.
    """
    folder.mkdir()
    (sources / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('check_times', {str(Path(__file__))!r})\n"
        "sys.modules['check_times'] = module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "module.begin()\n"
    )
    return {FOLDER: str(folder), LEFT_OUT: "1" if left_out else ""}


def counted(folder: Path) -> list[dict[str, Any]]:
    """What every process of the package wrote: its processor seconds, its checks."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def begin() -> None:
    """Have the checks wrapped as their modules are imported, and written of at the end."""
    sys.meta_path.insert(0, _Finder())
    atexit.register(_write)


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps the checks of a module once it is there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> Any:
        names = CHECKS.get(fullname.removeprefix(f"{PACKAGE}."))
        if names is None:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(fullname, path, target)):
                break
        else:
            return None
        execute = spec.loader.exec_module  # type: ignore[union-attr]

        def wrapped(module: ModuleType) -> None:
            execute(module)
            for name in names:
                setattr(module, name, _wrapped(getattr(module, name), name))

        spec.loader.exec_module = wrapped  # type: ignore[method-assign, union-attr]
        return spec


def _wrapped(check: Callable[..., Any], name: str) -> Callable[..., Any]:
    if os.environ.get(LEFT_OUT) and name not in ANSWERS:
        return lambda *_, **__: None

    @functools.wraps(check)
    def timed(*args: Any, **options: Any) -> Any:
        _write_of_worker()
        if getattr(_here, "inside", False):
            return check(*args, **options)
        _here.inside, start = True, time.thread_time()
        try:
            return check(*args, **options)
        finally:
            _here.inside = False
            _seconds[name] += time.thread_time() - start
            _calls[name] += 1

    return timed


@functools.cache
def _write_of_worker() -> None:
    """A process that multiprocessing starts does not go through what atexit is told."""
    util.Finalize(None, _write, exitpriority=100)


def _write() -> None:
    if PACKAGE not in sys.modules:
        return  # DVC, and whatever else starts
    own = os.times()
    record = {
        "seconds": own.user + own.system,
        "checks": {name: [_calls[name], _seconds[name]] for name in _calls},
    }
    Path(os.environ[FOLDER], f"{os.getpid()}.json").write_text(json.dumps(record))
