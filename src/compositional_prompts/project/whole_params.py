"""The whole of ``params.yaml``, every section of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compositional_prompts.captioner.parameters import Blip2Features, Finetune, Infer
from compositional_prompts.catalog.splitting.parameters import Split
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.datasets.parameters import Download
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.pipeline.params_file import explained
from compositional_prompts.pipeline.section import Base, ParameterError, Section
from compositional_prompts.pipeline.yaml_file import read_yaml
from compositional_prompts.reporting.parameters import Report
from compositional_prompts.scoring.parameters import Recommend, Score
from compositional_prompts.troika.parameters import TroikaPredict, TroikaTrain
from compositional_prompts.weights.parameters import Weights


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
    """The parameters of ``document``.

    Raises:
        ParameterError: a line for every unknown, missing or mistyped key, beginning with
            ``source``.
    """
    try:
        return Params.model_validate(document)
    except ValidationError as error:
        raise ParameterError(explained(error, source)) from error


def read_all_params(path: Path) -> Params:
    """Read and check the whole file; raises :class:`ParameterError` as :func:`checked`."""
    return checked(read_yaml(path), path)
