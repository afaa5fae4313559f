"""The card of an exported data set: where it is from, how it was made, and how true it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from huggingface_hub import DatasetCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from compositional_prompts.catalog.splitting.split_tables import JUDGED_SPLIT
from compositional_prompts.deployment.adapter_metrics import LOCK, made_together
from compositional_prompts.deployment.dataset_export.exported_rows import PAIR, ExportColumns
from compositional_prompts.deployment.dataset_export.forms.form_writer import SPLIT_FOLDERS
from compositional_prompts.deployment.model_card import (
    PIPELINE,
    data_link,
    escape_text,
    inline_code,
    python_literal,
)
from compositional_prompts.files.records.json_objects import read_json_object
from compositional_prompts.pipeline.dvc_file import stage_paths
from compositional_prompts.project.whole_params import Params
from compositional_prompts.reporting.content.formats import percent_between
from compositional_prompts.scoring.recommended_texts import CAPTION, ENHANCED

TEMPLATE: Final = "dataset_card.md.jinja"

_SIZES: Final = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
_CAPTION_IS: Final = {
    "recommended": "the recommended text: caption or enhanced prompt, whichever was right more "
    "often on labelled validation images",
    "readable": "the recommended text in a shop's words",
    "enhanced": "the enhanced prompt",
    "finetuned": "the caption by the fine-tuned BLIP-2",
}


class Truth(NamedTuple):
    """How true the texts are, by what is known of validation images.

    Attributes:
        images: of the validation split with label or truth,
        products: and the products that they are of; None where that was not counted.
        rows: the place, images of which it is known, and shares with their 95 % intervals as text:
            of enhanced prompts, and of captions.
    """

    images: int
    products: int | None
    rows: Sequence[tuple[str, int, str, str]]


def write_dataset_card(
    directory: Path,
    name: str,
    params: Params,
    columns: ExportColumns,
    manifest: Mapping[str, Any],
    license_id: str | None,
) -> None:
    """Write ``README.md``.

    Args:
        directory: of the export, complete but for its card.
        name: of the folder, or of its repository.
        params: what data and models are from.
        columns: of the export.
        manifest: what it says of itself.
        license_id: as the hub names it, or None to choose by what is known.
    """
    data = params.download.chosen
    licence_id = license_id or ("mit" if data.generated else "other")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # it knows HTML; this is Markdown, which the filters escape for
    )
    environment.filters |= {"text": escape_text, "code": inline_code, "literal": python_literal}
    files = sorted(
        path.relative_to(directory).as_posix()
        for pattern in ("*.tar", "annotations/*.json")
        for path in directory.glob(pattern)
    )
    own = "Not stated by the exporter" if licence_id == "other" else inline_code(licence_id)
    card = environment.get_template(TEMPLATE).render(
        metadata=_metadata(name, params, manifest, licence_id),
        name=name,
        source=data_link(data),
        generated=data.generated,
        caveat=data.caveat,
        manifest=manifest,
        form=manifest["form"],
        total=sum(manifest["rows"].values()),
        folders=SPLIT_FOLDERS,
        caption_is=_CAPTION_IS[manifest["captions"]],
        groups=columns.groups,
        methods={group: params.enhance.method_of(group) for group in columns.groups},
        named_by="Troika" if params.troika_train.epochs else "zero-shot CLIP",
        pair=PAIR,
        truth=_truth(),
        lock=str(LOCK),
        split=JUDGED_SPLIT,
        files=files,
        licence=f"{own}. {data.licence} The texts are made by machine.",
    )
    (directory / "README.md").write_text(card, encoding="utf-8")


def _metadata(name: str, params: Params, manifest: Mapping[str, Any], license_id: str) -> str:
    """The YAML that the hub reads."""
    repository = params.download.chosen.hub_repository()
    total = sum(manifest["rows"].values())
    paths = {"hub": "data/{}-*.parquet", "webdataset": "{}-*.tar"}.get(manifest["form"])
    files: list[dict[str, Any]] = []
    if paths is not None:
        folders = [SPLIT_FOLDERS[split] for split in manifest["rows"]]
        files = [{"split": folder, "path": paths.format(folder)} for folder in folders]
    elif manifest["form"] == "jsonl":
        files = [{"split": "train", "path": ["metadata.jsonl", "images-*/*"]}]
    data = DatasetCardData(
        language="en",
        license=license_id,
        license_name="see-licence" if license_id == "other" else None,
        license_link="#licence" if license_id == "other" else None,
        annotations_creators="machine-generated",
        language_creators="machine-generated",
        multilinguality="monolingual",
        size_categories=next((size for most, size in _SIZES if total < most), "10M<n<100M"),
        source_datasets=["original"] if repository is None else [f"extended|{repository[0]}"],
        task_categories=["image-to-text"],
        tags=["image-captioning", "product-photos", PIPELINE],
        pretty_name=" ".join(name.split()),
        configs=[{"config_name": "default", "data_files": files}] if files else None,
    )
    return str(data.to_yaml()).strip()


def _truth() -> Truth | None:
    """What ``metrics/recommend.json`` has; None where it is not of the tables that were exported,
    or nothing is known."""
    paths = stage_paths().get("recommend", {})
    metrics, prompts, texts = (paths.get(name) for name in ("metrics", "prompts", "texts"))
    if metrics is None or prompts is None or texts is None:
        return None
    if not made_together([metrics, prompts, texts]):
        return None
    found = read_json_object(metrics, "validation")["validation"]
    if not found.get("labelled"):
        return None
    known = found["known"]
    rows = [
        (place, known[place], *(_share(found.get(kind, {}), place) for kind in (ENHANCED, CAPTION)))
        for place in known
        if known[place]
    ]
    whole = tuple(
        percent_between(one.get("right_words"), one.get("right_words_interval"))
        for one in (found.get(ENHANCED, {}), found.get(CAPTION, {}))
    )
    rows.append(("all that is known", found["labelled"], *whole))
    return Truth(found["images"], found.get("products"), rows)


def _share(metrics: Mapping[str, Any], place: str) -> str:
    places = metrics.get("places", {})
    return percent_between(places.get(place), places.get(f"{place}_interval"))
