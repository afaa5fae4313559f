"""The whole of ``params.yaml``, every section of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compositional_prompts.captioner.parameters import Blip2Features, Finetune, Infer
from compositional_prompts.catalog.splitting.parameters import Split
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.datasets.parameters import Download
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.files.outputs import atomic_file
from compositional_prompts.pipeline.params_file import explained
from compositional_prompts.pipeline.section import Base, ParameterError, Section
from compositional_prompts.pipeline.yaml_file import read_yaml
from compositional_prompts.project.between_sections import doubts, faults
from compositional_prompts.reporting.parameters import Report
from compositional_prompts.scoring.parameters import Recommend, Score
from compositional_prompts.troika.parameters import TroikaPredict, TroikaTrain
from compositional_prompts.weights.parameters import Weights

log = logging.getLogger(__name__)


class Params(Section):
    """The whole of ``params.yaml``."""

    base: Base
    download: Download
    split: Split
    weights: Weights
    troika_train: TroikaTrain
    troika_predict: TroikaPredict
    clip_embed: ClipEmbed
    enhance: Enhance
    blip2_features: Blip2Features
    finetune: Finetune
    infer: Infer
    score: Score
    recommend: Recommend
    report: Report


def checked(document: Mapping[str, Any], source: str | Path) -> Params:
    """The parameters of ``document``, each section by itself and with the others.

    Raises:
        ParameterError: a line for every unknown, missing or mistyped key, and for every demand of
            sections on one another that is not met, beginning with ``source``.
    """
    try:
        params, problems = Params.model_validate(document), []
        sections = dict(params)
    except ValidationError as error:
        problems = [explained(error, source)]
        wrong = {problem["loc"][0] for problem in error.errors()}
        sections = {
            name: field.annotation.model_validate(document[name])
            for name, field in Params.model_fields.items()
            if name not in wrong and field.annotation is not None
        }
    problems += [f"{source}: {fault}" for fault in faults(sections)]
    if problems:
        raise ParameterError("\n".join(problems))
    return params


def read_all_params(path: Path) -> Params:
    """Read and check the whole file; raises :class:`ParameterError` as :func:`checked`."""
    return checked(read_yaml(path), path)


def check_params(path: Path, proof: Path) -> int:
    """Check the whole file, and write that it was; what is hardly meant goes to the log.

    Args:
        path: of ``params.yaml``.
        proof: file to write; the same after every check, so that nothing that depends on it runs
            again.

    Returns:
        The number of parameters.

    Raises:
        ParameterError: as :func:`checked`.
    """
    document = read_yaml(path)
    log.info("checking %d parameters of %s", _count(document), path)
    params = checked(document, path)
    for doubt in doubts(dict(params)):
        log.warning("warning: %s: %s", path, doubt)
    with atomic_file(proof) as temporary:
        temporary.write_text("The parameters are valid.\n")
    return _count(document)


def _count(values: Any) -> int:
    return sum(map(_count, values.values())) if isinstance(values, Mapping) and values else 1
