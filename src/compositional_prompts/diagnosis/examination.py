"""Everything that ``compositional-prompts doctor`` looks at, in its order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from compositional_prompts import __version__
from compositional_prompts.diagnosis.finding import Finding, ok
from compositional_prompts.diagnosis.hub_access import examine_hub
from compositional_prompts.diagnosis.installation import (
    examine_bitsandbytes,
    examine_packages,
    examine_programs,
    examine_python,
)
from compositional_prompts.diagnosis.machine import examine_disk, examine_memory, examine_torch
from compositional_prompts.diagnosis.project_state import (
    examine_data,
    examine_params,
    examine_pipeline,
)


def examine(params: Path) -> Iterator[Finding]:
    """A finding at a time, as it is found; nothing is changed and nothing is downloaded.

    Args:
        params: ``params.yaml``; the project is the folder that this runs in.
    """
    root = Path()
    yield ok(f"compositional-prompts {__version__}")
    yield from examine_python()
    yield from examine_packages()
    yield from examine_programs()
    read, found = examine_params(params)
    yield from found
    yield from examine_pipeline(root)
    yield from examine_torch(read)
    yield from examine_memory()
    yield from examine_disk(root, read)
    if read is not None:
        yield from examine_bitsandbytes(read)
        yield from examine_data(read)
        yield from examine_hub(read)
