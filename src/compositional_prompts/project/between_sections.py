"""What the sections of ``params.yaml`` ask of one another, a function a demand.

A function's arguments are named as the sections that it reads, so that a demand is judged where
those sections are valid, whatever is wrong with others.
"""

from __future__ import annotations

import inspect
import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from compositional_prompts.captioner.micro_shape import MICRO_POSITIONS, MICRO_QUERIES
from compositional_prompts.captioner.parameters import (
    Blip2Features,
    Finetune,
    Infer,
    augmentation_fault,
)
from compositional_prompts.catalog.splitting.parameters import Split
from compositional_prompts.clip.parameters import ClipEmbed
from compositional_prompts.datasets.parameters import Download
from compositional_prompts.enhancement.enhanced_prompts import check_group_names
from compositional_prompts.enhancement.parameters import Enhance
from compositional_prompts.pipeline.dvc_file import PipelineError, stage_paths
from compositional_prompts.pipeline.section import QUANTIZED, Base, Section
from compositional_prompts.prompt.readable_text import ReadableTemplateError, check_places
from compositional_prompts.prompt.template import PromptTemplate
from compositional_prompts.prompt.text_form import word_form
from compositional_prompts.scoring.parameters import Recommend
from compositional_prompts.troika.parameters import TroikaPredict, TroikaTrain
from compositional_prompts.weights.parameters import Blip2Source, Weights

Finding = Iterator[str]
"""Sentences, each with the keys, what was found, what is expected and the remedy."""


def faults(sections: Mapping[str, Section]) -> list[str]:
    """What must be put right before anything runs.

    Args:
        sections: by name, those that are valid by themselves.
    """
    return [fault for demand in DEMANDS for fault in _judged(demand, sections)]


def doubts(sections: Mapping[str, Section]) -> list[str]:
    """What is allowed and hardly meant, or may be put right later; as :func:`faults`."""
    return [doubt for demand in DOUBTFUL for doubt in _judged(demand, sections)]


def _judged(demand: Callable[..., Finding], sections: Mapping[str, Section]) -> Finding:
    names = inspect.signature(demand).parameters
    if names.keys() <= sections.keys():
        yield from demand(**{name: sections[name] for name in names})


def _images_as_they_were(blip2_features: Blip2Features, finetune: Finetune) -> Finding:
    if fault := augmentation_fault(blip2_features.cache, finetune.augment):
        yield fault


def _titles_as_target(finetune: Finetune, infer: Infer) -> Finding:
    if finetune.target != "title":
        return
    if infer.grammar:
        yield (
            "finetune.target is title, and infer.grammar is true, which holds captions to the form "
            "of enhanced prompts: set infer.grammar to false, or finetune.target to enhanced."
        )


def _captions_as_long_as_learnt(finetune: Finetune, infer: Infer) -> Finding:
    """Captions of a grammar end by themselves."""
    if not infer.grammar and infer.max_new_tokens < finetune.max_tokens:
        yield (
            f"infer.grammar is false, and infer.max_new_tokens is {infer.max_new_tokens}, which "
            f"would cut captions that finetune.max_tokens ({finetune.max_tokens}) lets be learnt: "
            f"set it to {finetune.max_tokens}, or finetune.max_tokens to {infer.max_new_tokens}."
        )


def _captions_that_have_room(weights: Weights, finetune: Finetune, infer: Infer) -> Finding:
    """As far as the model is known; that of a hub is asked before it is trained."""
    room = _room_for_captions(weights.blip2)
    for key, tokens in (
        ("finetune.max_tokens", finetune.max_tokens),
        ("infer.max_new_tokens", infer.max_new_tokens),
    ):
        if room is not None and tokens > room:
            yield (
                f"{key} is {tokens}, and the language model of weights.blip2 "
                f"({weights.blip2.name}) has room for {room} beside the image: lower it to {room}, "
                "or take a larger model."
            )


def _gpu_for_few_bits(
    base: Base, blip2_features: Blip2Features, finetune: Finetune, infer: Infer
) -> Finding:
    sections: tuple[Blip2Features | Finetune | Infer, ...] = (blip2_features, finetune, infer)
    for section in sections:
        if section.precision in QUANTIZED and base.device == "cpu":
            yield (
                f"{section.section}.precision is {section.precision}, which needs a CUDA GPU, and "
                "base.device is cpu: set base.device to cuda, or the precision to auto, float32 "
                "or bfloat16."
            )


def _titles_to_pretrain_on(split: Split, weights: Weights) -> Finding:
    if weights.pretrains and weights.pretrain.corpus == "catalog" and not split.corpus:
        yield (
            "weights.pretrain.corpus is catalog, and split.corpus is false, so that no titles are "
            "written: set split.corpus to true, or weights.pretrain.corpus to generated."
        )


def _words_to_predict(download: Download, split: Split) -> Finding:
    if not split.objects and not download.chosen.brings_labels():
        yield (
            f"download.dataset is {download.dataset} without labels, and split.objects is empty, "
            "so that nothing could be predicted: name words in split.objects, and in "
            "split.attributes where prompts are to name both, or give the data set labels."
        )


def _splits_to_take(download: Download, split: Split) -> Finding:
    if split.assignment == "given" and not download.chosen.brings_splits():
        kept = ", or set download.hub.keep_splits" if download.dataset == "hub" else ""
        yield (
            f"split.assignment is given, and download.dataset, {download.dataset}, brings no split "
            f"to take: set it to stable, exact or null{kept}."
        )


def _words_that_can_be_read_back(clip_embed: ClipEmbed, enhance: Enhance) -> Finding:
    vocabulary = clip_embed.vocabulary
    try:
        check_group_names(list(vocabulary))
        PromptTemplate(list(vocabulary), enhance.fallback).check_words(vocabulary)
    except ValueError as error:
        yield f"clip_embed.attributes: {str(error).removeprefix('clip_embed.attributes: ')}"


def _methods_of_groups(clip_embed: ClipEmbed, enhance: Enhance) -> Finding:
    for one in enhance.methods:
        if one.group not in clip_embed.vocabulary:
            yield (
                f"enhance.methods has the group {one.group!r}, and clip_embed.attributes has "
                f"{', '.join(map(repr, clip_embed.vocabulary))}: correct the name, or remove it."
            )


def _colors_for_pixels(clip_embed: ClipEmbed, enhance: Enhance) -> Finding:
    groups = [name for name in clip_embed.vocabulary if enhance.method_of(name) == "pixels"]
    if not groups:
        return
    # Here, since it imports matplotlib, which takes its time.
    from compositional_prompts.enhancement.colors.reference_colors import reference_colors

    for name in groups:
        if reference_colors(clip_embed.vocabulary[name], enhance.reference_colors) is None:
            yield (
                f"the method of the group {name!r} is pixels (enhance.methods, enhance.method), "
                "and no more than half of its words are names of colors: take another method, or "
                "give their colors in enhance.reference_colors."
            )


def _language_model_for_a_grammar(weights: Weights, infer: Infer) -> Finding:
    if infer.grammar and _is_t5(weights.blip2):
        yield (
            f"infer.grammar is true, and weights.blip2.name is {weights.blip2.name!r}, whose "
            "language model is a T5, which cannot write by a grammar: set infer.grammar to false, "
            "or take a BLIP-2 with OPT."
        )


def _is_t5(source: Blip2Source) -> bool:
    """Whether the language model is a T5, as far as it is known before the weights are there."""
    if source.source == "path":
        return str(_local_config(source)[1].get("model_type")) == "t5"
    return source.source == "hub" and "-t5" in source.name.lower()


def _room_for_captions(source: Blip2Source) -> int | None:
    """Tokens that a caption may have beside the image; None where it is not known yet, or any
    number of them (T5).
    """
    if source.source == "pretrain":
        return MICRO_POSITIONS - MICRO_QUERIES
    if source.source == "hub" or _is_t5(source):
        return None
    config, text_config = _local_config(source)
    positions, queries = text_config.get("max_position_embeddings"), config.get("num_query_tokens")
    if isinstance(positions, int) and isinstance(queries, int):
        return positions - queries
    return None


def _local_config(source: Blip2Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a local model says of itself and of its language model, as far as it says something."""
    with suppress(OSError, ValueError):
        config: Any = json.loads((Path(source.name) / "config.json").read_text())
        if isinstance(config, dict):
            text_config = config.get("text_config")
            return config, text_config if isinstance(text_config, dict) else {}
    return {}, {}


def _places_of_readable_texts(clip_embed: ClipEmbed, recommend: Recommend) -> Finding:
    template = recommend.readable.template
    if template is None:
        return
    try:
        check_places(template, list(clip_embed.vocabulary))
    except ReadableTemplateError as error:
        yield (
            f"recommend.readable.template: {error} Correct it, or null writes every group of "
            "clip_embed.attributes."
        )


def _room_for_the_context(troika_train: TroikaTrain) -> Finding:
    """Of the words alone; a word may be several tokens, which the CLIP's tokenizer tells."""
    if troika_train.mode == "train" and not troika_train.epochs:
        return
    # Every word is a token at least; beside them an attribute, an object and the two end marks.
    least = len(troika_train.context.split()) + 4
    if least > troika_train.context_length:
        yield (
            f"troika_train.context_length is {troika_train.context_length}, but the context "
            f"{troika_train.context!r} with an attribute, an object and the two end marks takes "
            f"{least} or more: raise it, or take fewer words."
        )


DEMANDS: tuple[Callable[..., Finding], ...] = (
    _images_as_they_were,
    _titles_as_target,
    _captions_as_long_as_learnt,
    _captions_that_have_room,
    _gpu_for_few_bits,
    _titles_to_pretrain_on,
    _words_to_predict,
    _splits_to_take,
    _words_that_can_be_read_back,
    _methods_of_groups,
    _colors_for_pixels,
    _language_model_for_a_grammar,
    _places_of_readable_texts,
    _room_for_the_context,
)


def _colors_of_words(clip_embed: ClipEmbed, enhance: Enhance) -> Finding:
    words = {word_form(word) for words in clip_embed.vocabulary.values() for word in words}
    unused = [one.word for one in enhance.reference_colors if word_form(one.word) not in words]
    if unused:
        yield (
            f"enhance.reference_colors has {', '.join(map(repr, unused))}, which no group of "
            "clip_embed.attributes has: without effect; correct the spelling, or remove it."
        )


def _launcher_that_is_there(base: Base) -> Finding:
    program = shlex.split(base.launcher)[0]
    if shutil.which(program) is None:
        yield (
            f"base.launcher is {base.launcher!r}, and there is no program {program!r} on PATH: "
            "troika_train and finetune will not start; install it, or correct the name."
        )


def _files_that_are_there(
    download: Download, weights: Weights, troika_predict: TroikaPredict
) -> Finding:
    paths = {f"download.{download.dataset}.{key}": path for key, path in download.chosen.files()}
    feasibility = troika_predict.feasibility
    if feasibility.vectors == "glove" and feasibility.glove is not None:
        paths["troika_predict.feasibility.glove"] = feasibility.glove
    for name in ("clip", "troika_clip", "blip2"):
        source = getattr(weights, name)
        if source.source == "path":
            paths[f"weights.{name}.name"] = source.name
    for key, path in paths.items():
        if not Path(path).expanduser().exists():
            yield (
                f"{key} is {path!r}, and there is no such file or folder: its stage cannot run; "
                "correct it, or put it there (relative paths start at the root of the project)."
            )


def _models_that_are_there(troika_train: TroikaTrain, finetune: Finetune) -> Finding:
    """What a stage takes in place of training; where, stands in ``dvc.yaml`` alone."""
    with suppress(PipelineError):
        paths = stage_paths()
        sections: tuple[TroikaTrain | Finetune, ...] = (troika_train, finetune)
        for section in sections:
            name, mode = section.section, section.mode
            template = str(paths.get(name, {}).get("source", "")) or "/"
            source = Path(template.replace(f"${{{name}.mode}}", mode))
            if mode != "train" and not source.exists():
                how = (
                    f"fetch it with `dvc pull {source.parent}`, or set {name}.mode to train, run "
                    "`dvc repro`, and then `compositional-prompts keep`."
                    if mode == "keep"
                    else f"put it there, or set {name}.mode to train."
                )
                yield f"{name}.mode is {mode}, and there is no {source}: it cannot run; {how}"


DOUBTFUL: tuple[Callable[..., Finding], ...] = (
    _colors_of_words,
    _launcher_that_is_there,
    _files_that_are_there,
    _models_that_are_there,
)
