"""The model card of an export: what the hub reads of it, and what people do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compositional_prompts.captioner.parameters import Infer
from compositional_prompts.catalog.splitting.split_tables import SCORED_SPLIT
from compositional_prompts.datasets.dataset import DataSet
from compositional_prompts.deployment.trained_paths import read_trained_paths
from compositional_prompts.files.records.json_objects import read_json_object
from compositional_prompts.project.whole_params import Params
from compositional_prompts.prompt.pair import NO_ATTRIBUTE
from compositional_prompts.prompt.template import FALLBACKS, PromptTemplate, names_objects_alone

READABLE_FILE: Final = "readable.json"
"""How readable texts are written, in an export."""

PIPELINE: Final = "compositional-prompts"
"""What every card names as its maker, in its text and among its tags."""

TEMPLATE: Final = "model_card.md.jinja"
HUB: Final = "https://huggingface.co"
CAPTIONERS: Final = {
    "base": "untrained",
    "finetuned_free": "this model",
    "finetuned": "this model, by the grammar",
}
"""Captioners of the metrics, and what the table of results calls them: what this folder writes in
plain transformers, which know no grammar, is what was written freely."""


@dataclass(frozen=True)
class BaseModel:
    """The model that an adapter belongs to, as its users have it.

    Attributes:
        name: a repository of the hub, or a folder.
        on_hub: whether it is a repository.
        options: keyword arguments for ``from_pretrained``, beside the dtype.
        resize: rows that its token embedding must be given, or 0 where it has enough.
        pretrained: whether the pipeline trained it from scratch.
    """

    name: str
    on_hub: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    resize: int = 0
    pretrained: bool = False

    @property
    def link(self) -> str:
        """Its name in Markdown."""
        if self.on_hub:
            return f"[{escape_text(self.name)}]({HUB}/{quote(self.name)})"
        kind = "a small one, trained from scratch" if self.pretrained else "a local one"
        return f"{inline_code(self.name)} ({kind})"

    @property
    def note(self) -> str:
        """How to come by a base that is not on the hub, or nothing."""
        if self.on_hub:
            return ""
        return (
            f"The base model is not on the hub. It lies in {inline_code(self.name)}, seen from "
            "the root of the project that it was trained in, where `dvc pull` brings it; put it "
            "where `base` below says. "
            "`compositional-prompts export --merged` writes a model that needs no other."
        )


@dataclass(frozen=True)
class Exported:
    """What a card is about, apart from parameters and metrics.

    Attributes:
        name: of the folder.
        merged: whether the whole model lies there, or the adapter.
        base: the base model.
        dtype: of the weights, as torch calls it.
        begin: the text that stands between image and caption.
        adapter: ``adapter_config.json``.
        grammar: segments of captions, where they lie beside the adapter.
        license_id: as the hub names it, or None to choose by what is known.
        measured: whether parameters and metrics are those that it was trained with: else the card
            tells neither data nor results.
    """

    name: str
    merged: bool
    base: BaseModel
    dtype: str
    begin: str
    adapter: Mapping[str, Any]
    grammar: Sequence[Sequence[str]] | None
    license_id: str | None
    measured: bool


def write_card(exported: Exported, params: Params, directory: Path) -> None:
    """Write ``README.md`` into ``directory``, from parameters and the metrics of the last run.

    Raises:
        FileNotFoundError: a metrics file of what was measured is not there.
    """
    data = params.download.chosen
    scores, finetuned, downloaded, recommendation = (
        read_json_object(path) if exported.measured else {}
        for path in read_trained_paths().card_files
    )
    # A kept adapter was trained by other data and parameters than those of today.
    kept = finetuned.get("origin", {})
    generated = exported.measured and _all_generated(params)
    license_id = exported.license_id or ("mit" if generated else "other")
    alone = exported.grammar is not None and names_objects_alone(exported.grammar)
    template = PromptTemplate(
        tuple(params.clip_embed.vocabulary), params.enhance.fallback, objects_alone=alone
    )
    form = template.format(
        NO_ATTRIBUTE if alone else "Attribute",
        "Object",
        {group: group.upper() for group in template.groups},
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
        autoescape=False,  # it knows HTML; this is Markdown, which the filters escape for
    )
    environment.filters |= {
        "text": escape_text,
        "code": inline_code,
        "literal": python_literal,
        "thousands": lambda number: f"{number:,}",
    }
    card = environment.get_template(TEMPLATE).render(
        metadata=_metadata(exported, params, scores, license_id),
        name=exported.name,
        merged=exported.merged,
        base=exported.base,
        dtype=exported.dtype,
        begin=exported.begin,
        form=form,
        objects_alone=alone,
        titled=kept.get("params", {}).get("target", params.finetune.target) == "title",
        example=_example(exported.grammar),
        versions={name: version(name) for name in ("transformers", "peft")},
        decoding=_decoding(params.infer),
        grammar=exported.grammar,
        vocabulary=params.clip_embed.vocabulary,
        enhance=params.enhance,
        unspecified=f"{FALLBACKS[params.enhance.fallback]} {template.groups[0]}",
        counts=downloaded,
        data=data_link(data),
        kept=kept,
        finetuned=kept.get("training", finetuned),
        measured=exported.measured,
        adapter=_adapter(exported.adapter),
        training=kept.get("params", params.finetune),
        scores=scores,
        split=SCORED_SPLIT,
        columns=_columns(scores),
        results=_results(scores) if scores else [],
        recommendation=recommendation,
        readable=params.recommend.readable,
        readable_file=READABLE_FILE,
        generated=exported.measured and data.generated,
        licence=_licence(license_id, exported, None if generated else data),
    )
    (directory / "README.md").write_text(card, encoding="utf-8")


def escape_text(text: Any) -> str:
    """Data as running Markdown text (not at the start of a line), or as a cell of a table."""
    return re.sub(r"([\\`*_\[\]<>#|~&$^])", r"\\\1", " ".join(str(text).split()))


def inline_code(text: Any) -> str:
    """Data as a code span, which it cannot leave (CommonMark, section 6.1)."""
    line = " ".join(str(text).split())
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def python_literal(value: Any) -> str:
    """Data as a literal of Python, strings in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _all_generated(params: Params) -> bool:
    """Whether nothing of others is in the model: drawn images, and models pretrained on such."""
    return (
        params.download.chosen.generated
        and params.weights.blip2.source == "pretrain"
        and params.weights.clip.source == "pretrain"
    )


def data_link(data: DataSet) -> str:
    """What a data set is, in Markdown: its repository on the hub, or its description."""
    repository = data.hub_repository()
    if repository is None:
        return data.description
    name, pin = repository
    at = f" at revision {inline_code(pin)}" if pin else ""
    return f"[{escape_text(name)}]({HUB}/datasets/{quote(name)}){at}"


def _metadata(
    exported: Exported, params: Params, scores: Mapping[str, Any], license_id: str
) -> str:
    """The YAML that the hub reads."""
    chosen = params.download.chosen
    repository = chosen.hub_repository() if exported.measured else None
    dataset = repository[0] if repository else None
    data = ModelCardData(
        base_model=exported.base.name if exported.base.on_hub else None,
        base_model_relation=("finetune" if exported.merged else "adapter")
        if exported.base.on_hub
        else None,
        datasets=[dataset] if dataset else None,
        language="en",
        library_name="transformers" if exported.merged else "peft",
        license=license_id,
        license_name="see-licence" if license_id == "other" else None,
        license_link="#licence" if license_id == "other" else None,
        pipeline_tag="image-to-text",
        tags=["blip-2", "image-captioning", "product-photos", PIPELINE, "lora"],
        model_name=" ".join(exported.name.split()),
        eval_results=[
            EvalResult(
                task_type="image-to-text",
                dataset_type=dataset or chosen.name,
                dataset_name=dataset or chosen.name,
                dataset_split=SCORED_SPLIT,
                metric_type=kind,
                metric_name=name,
                metric_value=value,
            )
            for kind, name, value in _headline(scores)
        ]
        or None,
    )
    return str(data.to_yaml()).strip()


def _headline(scores: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Type, name and value of the figures that the hub lists."""
    if not scores:
        return []
    finetuned = scores[_as_by_transformers(scores)]
    return [
        ("bleu", "mean sentence BLEU", finetuned["bleu"]["mean"]),
        ("rouge", "mean ROUGE-L", finetuned["rougeL"]["mean"]),
        ("exact_match", "exact match", finetuned["exact_match"]),
    ]


def _as_by_transformers(scores: Mapping[str, Any]) -> str:
    """Whose captions are those of plain transformers."""
    return "finetuned_free" if "finetuned_free" in scores else "finetuned"


def _columns(scores: Mapping[str, Any]) -> list[str]:
    """The head of the table of results."""
    names = {**CAPTIONERS, _as_by_transformers(scores): "this model"}
    return [names[captioner] for captioner in CAPTIONERS if captioner in scores]


def _example(grammar: Sequence[Sequence[str]] | None) -> str | None:
    """The first caption of the grammar."""
    return "".join(alternatives[0] for alternatives in grammar) if grammar else None


def _decoding(infer: Infer) -> str:
    if infer.sampling is not None:
        how = f"sampling at temperature {infer.sampling.temperature:g}"
    elif infer.num_beams > 1:
        how = f"{infer.num_beams} beams"
    else:
        how = "greedy"
    return f"{how}, at most {infer.max_new_tokens} new tokens"


def _adapter(config: Mapping[str, Any]) -> dict[str, Any]:
    targets = config["target_modules"]
    shown = {
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "dropout": config["lora_dropout"],
        "on": targets if isinstance(targets, str) else ", ".join(sorted(targets)),
    }
    kinds = [name for name in ("use_dora", "use_rslora") if config.get(name)]
    return shown | ({"with": ", ".join(kinds)} if kinds else {})


def _results(scores: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table of results: the name, and a cell a column."""
    captioners = [name for name in CAPTIONERS if name in scores]

    def row(name: str, *keys: str, percent: bool) -> list[str]:
        cells = [name]
        for captioner in captioners:
            value: Any = scores[captioner]
            for key in keys:
                value = value[key]
            if value is None:
                cells.append("-")
            else:
                cells.append(f"{100 * value:.1f} %" if percent else f"{value:.3f}")
        return cells

    rows = [
        row("BLEU", "bleu", "mean", percent=False),
        row("ROUGE-2", "rouge2", "mean", percent=False),
        row("ROUGE-L", "rougeL", "mean", percent=False),
        row("exact match", "exact_match", percent=True),
        row("in the form", "well_formed", percent=True),
    ]
    for place in scores["finetuned"]["attributes"]:
        rows.append(
            row(f"{place} as enhanced", "attributes", place, "accuracy_vs_enhanced", percent=True)
        )
        known = (scores[name]["attributes"][place]["accuracy_vs_truth"] for name in captioners)
        if any(share is not None for share in known):
            rows.append(
                row(f"{place} true", "attributes", place, "accuracy_vs_truth", percent=True)
            )
    return rows


def _licence(license_id: str, exported: Exported, data: DataSet | None) -> str:
    """Of what is exported; ``data`` is None where nothing of others is in it."""
    if data is None:
        return (
            f"{inline_code(license_id)}. Data and models were generated and trained from scratch; "
            "nothing of others is in them."
        )
    own = "Not stated by the exporter" if license_id == "other" else inline_code(license_id)
    of_data = f" {data.licence}" if exported.measured else ""
    return (
        f"{own}. The base model, {exported.base.link}, and the data come under their own licences."
        f"{of_data}"
    )
