"""Keeping the models at hand, so that a catalogue may grow without training again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from compositional_prompts.catalog.image_join import image_rows
from compositional_prompts.catalog.reading import read_labels
from compositional_prompts.catalog.splitting.split_tables import PAIRS_OF_OBJECTS, SPLITS
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.digests import folder_digest
from compositional_prompts.files.outputs import atomic_directory
from compositional_prompts.files.tables import read_table, write_table
from compositional_prompts.growth.confidence import (
    Confidence,
    pair_confidence,
    unsure_below,
    word_confidence,
)
from compositional_prompts.growth.recorded_outputs import RecordedOutputs, recorded_outputs
from compositional_prompts.pipeline.dvc_file import stage_paths
from compositional_prompts.pipeline.section import ParameterError
from compositional_prompts.prompt.pair import label_name
from compositional_prompts.results.kept_models import (
    CONTENTS,
    CONTENTS_FILE,
    MODEL,
    Origin,
    copy_model,
    read_origin,
    write_origin,
)
from compositional_prompts.results.stage_metrics import read_metrics

KEEP: Final = "keep"


@dataclass(frozen=True)
class _Kind:
    """A model that may be kept.

    Attributes:
        stage: that trains it, and its section of ``params.yaml``.
        argument: of the stage's script that names the model.
        split: the column of ``splits.parquet`` that says which photos it learns from.
        measured: groups of ``summary.json`` that tell of it.
    """

    stage: str
    argument: str
    split: str
    measured: Sequence[str]


KINDS: Final = (
    _Kind("troika_train", "model", "pair_split", ("pairs",)),
    _Kind("finetune", "adapter", "caption_split", ("captions", "says", "texts")),
)


@dataclass(frozen=True)
class _Data:
    """What the models were trained from, as it lies in the project.

    Attributes:
        labels: image_id and content of every photo of the catalogue.
        splits: of the same photos, in their order.
        pairs: ``pairs.parquet``.
        words: of every attribute group.
        confidence: by stage.
    """

    labels: pa.Table
    splits: pa.Table
    pairs: pa.Table
    words: Mapping[str, Sequence[str]]
    confidence: Mapping[str, Confidence]


@dataclass(frozen=True)
class Kept:
    """What was set aside.

    Attributes:
        root: the folder of all kept models.
        models: a sentence for each.
        params: what makes the pipeline use them, by dotted name.
    """

    root: Path
    models: Sequence[str]
    params: Mapping[str, str]


def keep_models() -> Kept:
    """Set Troika and the adapter aside, whole or not at all.

    They are written to the folders that ``dvc.yaml`` has for ``mode: keep``, which DVC then
    tracks. A model that is a kept one already keeps its origin.

    Raises:
        ParameterError: both models are kept ones already.
        OutputError: a model or what it was trained from is missing, is not as ``dvc.lock`` has it,
            or was not made from one another.
        PipelineError: ``dvc.yaml`` cannot be read, or DVC refuses the folder.
    """
    paths = stage_paths()
    models = {kind.stage: paths[kind.stage][kind.argument] for kind in KINDS}
    with recorded_outputs() as recorded:
        trained = [kind for kind in KINDS if recorded.mode(kind.stage) != KEEP]
        if not trained:
            raise ParameterError(
                f"{' and '.join(map(str, models.values()))} are kept models already: to keep newer "
                "ones, set troika_train.mode and finetune.mode to train, run `dvc repro`, and keep "
                "these."
            )
        inputs = tables_read(paths)
        metrics = {kind.stage: paths[kind.stage]["metrics"] for kind in KINDS}
        recorded.require(
            [paths["finetune"]["blip2"], *models.values(), *inputs.values(), *metrics.values()]
        )
        data = _read(inputs)
        summary = paths["summary"]["summary"]
        measured = read_metrics(summary) if recorded.is_current(summary) else {}
        sources = {kind.stage: _source(paths, kind.stage) for kind in KINDS}
        (root,) = {source.parent for source in sources.values()}
        origins = {
            kind.stage: (
                _origin(kind, models[kind.stage], metrics[kind.stage], measured, data, recorded)
                if kind in trained
                else None
            )
            for kind in KINDS
        }
        if (adapter := origins["finetune"]) is not None:
            base = folder_digest(paths["finetune"]["blip2"])
            origins["finetune"] = replace(adapter, base=base)
        with atomic_directory(root) as temporary:
            for kind in KINDS:
                folder = temporary / sources[kind.stage].name
                folder.mkdir()
                copy_model(models[kind.stage], folder / MODEL)
                origin = origins[kind.stage]
                if origin is None:
                    _take_over(sources[kind.stage], folder)
                else:
                    write_origin(origin, folder)
                    write_table(_contents(data, kind), folder / CONTENTS_FILE, CONTENTS)
        recorded.track(root)
    return Kept(root, list(_told(sources, origins)), {f"{kind.stage}.mode": KEEP for kind in KINDS})


def tables_read(paths: Mapping[str, Mapping[str, Path]]) -> dict[str, Path]:
    """What is read to say what models come from, of the paths of :func:`stage_paths`."""
    predict, enhance = paths["troika_predict"], paths["enhance"]
    return {
        "catalog": predict["catalog"],
        "splits": predict["splits"],
        "pairs": predict["pairs"],
        "original": predict["prompts"],
        "enhanced": enhance["enhanced"],
        "words": paths["finetune"]["words"],
    }


def _source(paths: Mapping[str, Mapping[str, Path]], stage: str) -> Path:
    """The folder of a kept model: what the stage reads with ``mode: keep``."""
    return Path(str(paths[stage]["source"]).replace(f"${{{stage}.mode}}", KEEP))


def _read(inputs: Mapping[str, Path]) -> _Data:
    labels = read_labels(inputs["catalog"], ["image_id", "content"])
    ids = labels.column("image_id")
    splits = read_table(inputs["splits"], SPLITS, ["image_id", "caption_split", "pair_split"])
    found = splits.column("image_id").chunks
    rows = image_rows(
        ids.combine_chunks(), found, table=inputs["splits"], wanted_by=inputs["catalog"]
    )
    words = read_vocabulary(inputs["words"]).words
    return _Data(
        labels=labels,
        splits=splits.take(rows),
        pairs=read_table(inputs["pairs"], PAIRS_OF_OBJECTS),
        words=words,
        confidence={
            "troika_train": pair_confidence(inputs["original"], ids, inputs["catalog"]),
            "finetune": word_confidence(inputs["enhanced"], tuple(words), ids, inputs["catalog"]),
        },
    )


def _origin(
    kind: _Kind,
    model: Path,
    metrics: Path,
    measured: Mapping[str, Any],
    data: _Data,
    recorded: RecordedOutputs,
) -> Origin:
    trained = _trained(data, kind)
    attributes, objects = (data.pairs.column(name).to_pylist() for name in ("attribute", "object"))
    labels = (label_name(*pair) for pair in zip(attributes, objects, strict=True))
    training = {name: value for name, value in read_metrics(metrics).items() if name != "mode"}
    commit, committed = _first_commit(recorded.md5(model), recorded.lock)
    return Origin(
        kept=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit,
        committed=committed,
        images=data.labels.num_rows,
        train_images=int(training.get("train_images", trained.sum())),
        inputs=recorded.inputs(kind.stage),
        params=recorded.params(kind.stage),
        training=training,
        measured={name: measured[name] for name in kind.measured if name in measured},
        attributes=sorted({name for name in attributes if name is not None}),
        objects=sorted(set(objects)),
        pairs=sorted({label for label in labels if label is not None}),
        words={} if kind.stage == "troika_train" else data.words,
        unsure_below=unsure_below(data.confidence[kind.stage], ~trained),
    )


def _trained(data: _Data, kind: _Kind) -> np.ndarray:
    """Which photos the model learnt from, bool ``[photos]``."""
    return np.array([name == "train" for name in data.splits.column(kind.split).to_pylist()], bool)


def _contents(data: _Data, kind: _Kind) -> pa.Table:
    """Every content once; of equal photos on both sides of the split, the model learnt from one."""
    table = pa.table(
        {"content": data.labels.column("content"), "trained": pa.array(_trained(data, kind))}
    )
    table = table.group_by("content").aggregate([("trained", "max")])
    table = table.rename_columns(["content", "trained"]).sort_by("content")
    return table.cast(CONTENTS)


def _take_over(source: Path, folder: Path) -> None:
    """What is known of a model that was a kept one before."""
    origin = read_origin(source)
    if origin is None:
        raise ParameterError(
            f"{source} lacks the origin of the model that is kept: `dvc pull {source.parent}` "
            "fetches it."
        )
    write_origin(origin, folder)
    write_table(read_table(source / CONTENTS_FILE, CONTENTS), folder / CONTENTS_FILE, CONTENTS)


def _first_commit(md5: str, lock: Path) -> tuple[str | None, str | None]:
    """The first commit whose ``dvc.lock`` has an output, and its date; None where none has yet."""
    command = ["git", "log", "--reverse", "--format=%H %cI", f"-S{md5}", "--", str(lock)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None, None
    first = done.stdout.splitlines()[:1] if done.returncode == 0 else []
    if not first:
        return None, None
    commit, _, date = first[0].partition(" ")
    return commit, date


def _told(sources: Mapping[str, Path], origins: Mapping[str, Origin | None]) -> Iterator[str]:
    for stage, source in sources.items():
        origin = origins[stage] or read_origin(source)
        assert origin is not None  # it was written above
        yield (
            f"{source}: learnt from {origin.train_images:,} of {origin.images:,} photos"
            + (f", commit {origin.commit[:10]} of {origin.committed}" if origin.commit else "")
            + ("" if origins[stage] else "; kept as it was")
            + "."
        )
