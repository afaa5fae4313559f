"""What a stage opens that goes on where it was when it is killed and rerun."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from compositional_prompts.compute.imported_files import imported_files
from compositional_prompts.compute.precision import ResolvedPrecision
from compositional_prompts.compute.training.checkpoints import Checkpoints
from compositional_prompts.files.scratch import SCRATCH, fingerprint, scratch_folder
from compositional_prompts.pipeline.section import Section
from compositional_prompts.pipeline.stage import StageRun, run_stage


@dataclass(frozen=True)
class ResumableStage:
    """A stage under way; of several processes only the main one times, keeps and writes.

    Attributes:
        run: whose ``rows`` is to be set.
        scratch: where it keeps what it has done, until it succeeds.
        main: whether this is the main process.
    """

    run: StageRun
    scratch: Path
    main: bool

    def checkpoints(self, seconds: float, training: str = "") -> Checkpoints:
        """Those of a training, so many seconds apart.

        Args:
            seconds: between two of them.
            training: which, where a stage has several: the folder below :attr:`scratch`.
        """
        if not self.main:
            return Checkpoints(None, seconds)
        folder = self.scratch / training
        folder.mkdir(exist_ok=True)
        return Checkpoints(folder, seconds)


@contextmanager
def resumable_stage(
    name: str,
    params: Section,
    seed: int | None,
    inputs: Sequence[Path],
    processes: Accelerator | torch.device,
    *,
    precision: ResolvedPrecision | None = None,
) -> Iterator[ResumableStage]:
    """Run a stage as :func:`run_stage` does, with a scratch folder and checkpoints of its own.

    Args:
        name: of the stage.
        params: its section.
        seed: of what is random in it, if anything is.
        inputs: files and folders that it reads.
        processes: those that run it together, or the device of this one alone.
        precision: what it computes in, where it can be chosen; ``params`` has it.
    """
    device = processes.device if isinstance(processes, Accelerator) else processes
    number = processes.num_processes if isinstance(processes, Accelerator) else 1
    settings = {
        "params": params.model_dump(),
        "seed": seed,
        "device": device.type,
        "processes": number,
        "precision": None if precision is None else str(precision),
    }
    if isinstance(processes, Accelerator) and not processes.is_main_process:
        yield ResumableStage(StageRun(), SCRATCH, main=False)
        return
    script = Path(str(sys.modules["__main__"].__file__))
    with ExitStack() as stack:
        run = stack.enter_context(run_stage(name))
        if precision is not None:
            run.compute_in(str(precision), precision.reason)
        key = fingerprint(settings, inputs, [script, *imported_files(script)])
        scratch = stack.enter_context(scratch_folder(name, key))
        yield ResumableStage(run, scratch, main=True)
