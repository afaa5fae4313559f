"""The section ``base`` of ``params.yaml`` for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compositional_prompts.pipeline.section import Base


def base_section(rows: Path, **changes: Any) -> Base:
    """On the CPU, with two workers and the row store at ``rows``."""
    values: dict[str, Any] = {
        "seed": 0,
        "device": "cpu",
        "workers": 2,
        "launcher": "python",
        "checkpoint_seconds": 60,
        "rows": {"path": str(rows), "max_gib": 1.0},
        "engine": "local",
        "ray": {"address": None, "actors": 2, "cpus": 1, "gpus": 0.0},
    }
    return Base.model_validate(values | changes)
