"""The trained captioner as a folder that plain transformers and peft load, with a model card."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from compositional_prompts.captioner.decoding.grammar_file import GRAMMAR_FILE, read_grammar
from compositional_prompts.captioner.model.blip2_model import (
    Captioner,
    complete,
    load_captioner,
)
from compositional_prompts.captioner.model.lora import CONFIG_FILE, load_adapter
from compositional_prompts.captioner.parameters import Infer
from compositional_prompts.deployment.adapter_metrics import LOCK, metrics_tell_of
from compositional_prompts.deployment.model_card import (
    PIPELINE,
    READABLE_FILE,
    BaseModel,
    Exported,
    write_card,
)
from compositional_prompts.deployment.publishing.export_place import check_place
from compositional_prompts.deployment.trained_paths import read_trained_paths
from compositional_prompts.files.outputs import atomic_directory
from compositional_prompts.files.records.json_objects import read_json_object
from compositional_prompts.pipeline.section import QUANTIZED, Precision, PrecisionChoice
from compositional_prompts.project.whole_params import Params

logger = logging.getLogger(__name__)

ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
CARD: Final = "README.md"


def export(
    out: Path,
    params: Params,
    *,
    blip2: Path,
    adapter: Path,
    merged: bool,
    base: str | None = None,
    license_id: str | None = None,
    precision: Precision | None = None,
    force: bool = False,
) -> None:
    """Write the adapter, or the merged model, with all that captioning with it takes.

    Beside the weights (safetensors) lie processor, tokenizer, ``generation_config.json`` with the
    settings of ``infer``, those of readable texts, ``README.md``, and the grammar of captions where
    the adapter has one.
    Of the adapters it is the best epoch's; the last one's stays behind. The card has results where
    ``metrics/`` is of this adapter.

    Args:
        out: folder to write; it appears whole or not at all.
        params: where the base is from, how to caption, and what the card tells of training.
        blip2: folder of the base model.
        adapter: folder of the adapter.
        merged: write the whole model instead of the adapter.
        base: where users of the adapter have its base model, a repository or a folder; by default
            the repository that ``weights.blip2`` names, else ``blip2``.
        license_id: licence of the export as the hub names it.
        precision: of merged weights; ``infer.precision`` by default, bfloat16 where that is 8 or
            4 bits, float32 where it is auto: what is exported is for any machine.
        force: replace ``out`` if there is an earlier export in it.

    Raises:
        FileExistsError: there is something in ``out``, and ``force`` is not given or it is no
            earlier export.
        FileNotFoundError: a model or the adapter is not there.
        ValueError: the adapter does not fit the model.
    """
    check_place(out, force, _is_earlier, f"a {CARD} of {PIPELINE} and a {GENERATION_CONFIG_NAME}")
    weights = precision or _exported_precision(params.infer.precision)
    captioner = load_captioner(blip2, torch.device("cpu"), weights)
    rows = _token_rows(captioner)
    # The adapter alone is merged too: one that does not fit its base is found here and not by
    # whoever gets it.
    load_adapter(captioner, adapter)
    complete(captioner)
    completed = _token_rows(captioner)
    described = _base(params, blip2, base, captioner, completed if completed > rows else 0)
    config = read_json_object(adapter / CONFIG_FILE)
    trained = read_trained_paths()
    measured = metrics_tell_of(adapter, trained, trained.card_files)
    if not measured:
        logger.warning(
            "%s: its card has no results, since %s does not say that metrics/ is of it",
            adapter,
            LOCK,
        )
    with atomic_directory(out) as directory:
        if merged:
            captioner.model.save_pretrained(directory, safe_serialization=True)
        else:
            _copy_adapter(adapter, config, described, params, directory)
        captioner.processor.save_pretrained(directory)
        generation_config(captioner, params.infer).save_pretrained(directory)
        grammar = read_grammar(adapter)
        if grammar is not None:
            shutil.copyfile(adapter / GRAMMAR_FILE, directory / GRAMMAR_FILE)
        _write_readable(params, directory / READABLE_FILE)
        exported = Exported(
            name=out.resolve().name,
            merged=merged,
            base=described,
            dtype=weights,
            begin="".join(captioner.tokenizer.convert_ids_to_tokens(captioner.begin_of_text)),
            adapter=config,
            grammar=grammar,
            license_id=license_id,
            measured=measured,
        )
        write_card(exported, params, directory)
        for path in directory.iterdir():
            path.chmod(0o644)  # safetensors writes for the owner only


def _write_readable(params: Params, path: Path) -> None:
    """The arguments of ReadableText."""
    readable = params.recommend.readable
    settings = {
        "groups": list(params.clip_embed.vocabulary),
        "template": readable.template,
        "names": {name.label: name.text for name in readable.names},
    }
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_earlier(out: Path) -> bool:
    card, settings = out / CARD, out / GENERATION_CONFIG_NAME
    return card.is_file() and settings.is_file() and PIPELINE in card.read_text("utf-8")


def generation_config(captioner: Captioner, infer: Infer) -> GenerationConfig:
    """The settings of ``infer`` as transformers has them; a grammar has no place among them."""
    text: Any = captioner.model.config.text_config
    settings: dict[str, Any] = {
        "max_new_tokens": infer.max_new_tokens,
        "bos_token_id": text.bos_token_id,
        "eos_token_id": captioner.end_of_caption,
        "pad_token_id": captioner.padding,
        "decoder_start_token_id": getattr(text, "decoder_start_token_id", None),
        "do_sample": infer.sampling is not None,
        "num_beams": infer.num_beams,
    }
    if infer.sampling is not None:
        settings |= infer.sampling.model_dump()
    if infer.num_beams > 1:
        settings |= {"early_stopping": True, "length_penalty": infer.length_penalty}
    return GenerationConfig(**settings)


def _exported_precision(choice: PrecisionChoice) -> Precision:
    """Of merged weights, where nothing else is asked for."""
    if choice == "auto":
        return "float32"
    return "bfloat16" if choice in QUANTIZED else choice


def _token_rows(captioner: Captioner) -> int:
    embedding: Any = captioner.model.get_input_embeddings()
    return int(embedding.num_embeddings)


def _base(
    params: Params, blip2: Path, named: str | None, captioner: Captioner, resize: int
) -> BaseModel:
    """The base as users of the adapter have it, and what its files lack of what plain
    transformers needs.
    """
    source = params.weights.blip2
    written = read_json_object(blip2 / "config.json")
    options: dict[str, Any] = {}
    if source.source == "hub" and named in (None, source.name) and source.revision is not None:
        options["revision"] = source.revision
    config: Any = captioner.model.config
    for key in ("image_token_index", "num_query_tokens"):
        if written.get(key) != getattr(config, key):
            options[key] = getattr(config, key)
    if named is None:
        if source.source == "hub":
            return BaseModel(source.name, True, options, resize)
        # Where the folder lies on this machine is nobody's business.
        local = blip2.name if blip2.is_absolute() else blip2.as_posix()
        return BaseModel(local, False, options, resize, source.source == "pretrain")
    repository = re.fullmatch(r"[\w.-]+/[\w.-]+", named) is not None and not Path(named).exists()
    return BaseModel(named, repository, options, resize)


def _copy_adapter(
    adapter: Path, config: dict[str, Any], base: BaseModel, params: Params, directory: Path
) -> None:
    """Copy PEFT's two files, the configuration naming the base as users have it."""
    weights = adapter / ADAPTER_WEIGHTS
    with safe_open(weights, framework="pt"):  # a pickle under this name ends here
        shutil.copyfile(weights, directory / ADAPTER_WEIGHTS)
    named = config | {
        "base_model_name_or_path": base.name,
        "revision": base.options.get("revision"),
    }
    (directory / CONFIG_FILE).write_text(json.dumps(named, indent=2, sort_keys=True) + "\n")
