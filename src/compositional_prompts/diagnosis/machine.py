"""Torch and the device, precision, memory and disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from compositional_prompts.diagnosis.finding import Finding, error, ok, warning
from compositional_prompts.project.whole_params import Params

GIB = 2**30
MEMORY = 4 * GIB
"""What the shipped parameters need, with some room beside it."""

DISK = 5 * GIB
HUB_DISK = 40 * GIB
"""A BLIP-2 of 2.7 billion parameters in float32 in the hub's cache, here, and in DVC's cache."""

NVIDIA = Path("/proc/driver/nvidia/version")
"""Where Linux tells that there is a driver of Nvidia's."""

CGROUP = Path("/sys/fs/cgroup/memory.max")


def examine_torch(params: Params | None) -> Iterator[Finding]:
    """The build of torch, what ``base.device`` comes to, and what ``precision: auto`` chooses."""
    try:
        import torch

        from compositional_prompts.compute.devices import resolve_device
        from compositional_prompts.compute.precision import resolve_precision
    except (ImportError, OSError) as failed:
        yield error(
            f"torch cannot be imported: {failed}. Run `pip install -c constraints.txt -e .` in "
            "the project's environment."
        )
        return
    gpu = torch.cuda.is_available()
    build = f"torch {torch.__version__}"
    if not gpu and NVIDIA.exists():
        yield warning(
            f"{build} sees no GPU though there is a driver of Nvidia's: install a build of torch "
            "for CUDA (pytorch.org tells which), or a newer driver."
        )
    else:
        yield ok(f"{build}, {_gpus(torch) if gpu else 'no GPU'}")
    try:
        device = resolve_device("auto" if params is None else params.base.device)
    except RuntimeError as failed:
        yield error(str(failed))
        return
    resolved = resolve_precision("auto", device)
    yield ok(f"computes on {device}; precision auto is {resolved} ({resolved.reason})")


def _gpus(torch: object) -> str:
    cuda = torch.cuda  # type: ignore[attr-defined]
    names = []
    for number in range(cuda.device_count()):
        free, total = cuda.mem_get_info(number)
        names.append(
            f"{cuda.get_device_name(number)} ({free / GIB:.0f} of {total / GIB:.0f} GiB free)"
        )
    return ", ".join(names)


def examine_memory(total: int | None = None) -> Iterator[Finding]:
    """The memory that there is for this process and its like."""
    size = total if total is not None else _memory()
    if size is None:
        yield warning("how much memory there is cannot be told; 4 GiB are enough for the sample.")
    elif size < MEMORY:
        yield warning(
            f"{size / GIB:.1f} GiB of memory: stages may be killed. Lower base.workers to 1 and "
            "weights.pretrain.images, or take a machine with 4 GiB."
        )
    else:
        yield ok(f"{size / GIB:.1f} GiB of memory, {os.cpu_count()} processors")


def _memory() -> int | None:
    sizes = []
    with suppress(OSError, ValueError, AttributeError):  # not on Windows
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # "max" where nothing is limited
        sizes.append(int(CGROUP.read_text()))
    return min(sizes, default=None)


def examine_disk(root: Path, params: Params | None, free: int | None = None) -> Iterator[Finding]:
    """Room for what stages write, and whether it may be written."""
    if not os.access(root, os.W_OK):
        yield error(f"{root.resolve()} cannot be written: take a folder of your own.")
    left = shutil.disk_usage(root).free if free is None else free
    wanted = HUB_DISK if params is not None and params.weights.blip2.source == "hub" else DISK
    if left < wanted:
        yield warning(
            f"{left / GIB:.1f} GiB of disk are free in {root.resolve()}, and a run may take "
            f"{wanted // GIB}: make room (`dvc gc -w` removes results of other parameters)."
        )
    else:
        yield ok(f"{left / GIB:.0f} GiB of disk are free")
