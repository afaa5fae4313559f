"""Captions of any photos by the trained captioner, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from compositional_prompts.captioner.caption_rows import grammar_of
from compositional_prompts.captioner.decoding.caption_generation import generate_captions
from compositional_prompts.captioner.decoding.sampling import image_seed
from compositional_prompts.captioner.decoding.token_automaton import TokenAutomaton
from compositional_prompts.captioner.model.blip2_model import Captioner, load_captioner
from compositional_prompts.captioner.model.forward import query_features
from compositional_prompts.captioner.model.lora import load_adapter
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.compute.precision import resolve_precision
from compositional_prompts.deployment.photos import Prepared, SetAside, find_photos, read_photos
from compositional_prompts.deployment.trained_paths import read_trained_paths
from compositional_prompts.deployment.wishes import NOTHING_BESIDE, Wishes
from compositional_prompts.files.outputs import rounded
from compositional_prompts.pipeline.terminal_text import encodable
from compositional_prompts.project.whole_params import Params, checked
from compositional_prompts.prompt.template import PromptTemplate
from compositional_prompts.scoring.recommended_texts import CAPTION, ENHANCED

if TYPE_CHECKING:
    from compositional_prompts.deployment.suggestions import PairNamer, PhotoWords

Record = dict[str, Any]
"""What is said of one photo: ``path`` and either ``error`` or ``caption`` and what was asked for
beside it; as JSON can hold it."""


class PhotoCaptioner:
    """The models that a command needs, loaded once."""

    def __init__(self, params: Params, blip2: Path, adapter: Path, wishes: Wishes) -> None:
        """Load them.

        Args:
            params: device, and how to caption, enhance and score.
            blip2: folder of the base model.
            adapter: folder of the adapter.
            wishes: what is wanted beside the captions; only what they take is loaded.

        Raises:
            FileNotFoundError: a file is not there.
            PipelineError: ``dvc.yaml`` does not say where CLIP, the word scorer or Troika lies.
            ValueError: an adapter, a grammar or a vocabulary does not fit.
            RuntimeError: the device is not there, or not what the precision needs.
        """
        device = resolve_device(params.base.device)
        self._params = params
        precision = resolve_precision(params.infer.precision, device).precision
        self._captioner = load_captioner(blip2, device, precision)
        load_adapter(self._captioner, adapter)
        self._grammar = grammar_of(self._captioner, adapter) if params.infer.grammar else None
        self._untrained: Captioner | None = None
        self._pairs: PairNamer | None = None
        self._words: PhotoWords | None = None
        self._template: PromptTemplate | None = None
        self._wishes = wishes
        self._readable = params.recommend.readable.of(tuple(params.clip_embed.vocabulary))
        self._prepare: dict[str, Callable[[Image.Image], Tensor]] = {
            "captioner": self._captioner.preprocess
        }
        if wishes.untrained:
            self._untrained = load_captioner(blip2, device, precision, "language")
        names_pairs = wishes.names_pairs(params.infer.grammar)
        if names_pairs or wishes.scores:
            # Here, since captions alone do without open_clip, whose import takes a second.
            from compositional_prompts.deployment.suggestions import PairNamer, PhotoWords

            paths = read_trained_paths()
            self._words = PhotoWords(paths.clip, paths.word_scorer, params.clip_embed, device)
            self._prepare |= self._words.preparations()
            if names_pairs:
                self._pairs = PairNamer(
                    paths.troika_clip,
                    paths.troika,
                    paths.pairs,
                    device,
                    params.troika_predict.block_mib,
                )
                self._prepare["pairs"] = self._pairs.preprocess
        if wishes.reads_captions:
            from compositional_prompts.troika.model.pair_vocabulary import Vocabulary

            vocabulary = Vocabulary.read(read_trained_paths().pairs)
            self._template = PromptTemplate(
                tuple(params.clip_embed.vocabulary),
                params.enhance.fallback,
                vocabulary.attributes,
                objects_alone=vocabulary.objects_alone,
            )

    def prepare(self, image: Image.Image) -> dict[str, Tensor]:
        """An RGB image to what each of the models takes."""
        return {name: prepare(image) for name, prepare in self._prepare.items()}

    @torch.inference_mode()
    def describe(
        self, paths: Sequence[str], inputs: Sequence[Mapping[str, Tensor]]
    ) -> list[Record]:
        """Records of photos: their paths, and what :meth:`prepare` made of them."""
        if not inputs:
            return []
        batch = {name: torch.stack([photo[name] for photo in inputs]) for name in self._prepare}
        captioner = self._captioner
        with captioner.autocast():
            queries = query_features(captioner.model, batch["captioner"].to(captioner.device))
        captions = self._captions(captioner, paths, queries, self._grammar)
        records: list[Record] = [
            {"path": path, "caption": caption}
            for path, caption in zip(paths, captions, strict=True)
        ]
        if self._untrained is not None:
            untrained = self._captions(self._untrained, paths, queries, None)
            for record, caption in zip(records, untrained, strict=True):
                record["untrained"] = caption
        if self._words is not None:
            self._add_suggestions(records, batch, self._words)
        if self._template is not None:
            for record in records:
                self._add_recommendation(record, self._template.read_slots(record["caption"]))
        return records

    def _captions(
        self,
        captioner: Captioner,
        paths: Sequence[str],
        queries: Tensor,
        grammar: TokenAutomaton | None,
    ) -> list[str]:
        infer = self._params.infer
        return generate_captions(
            captioner,
            queries,
            num_beams=infer.num_beams,
            max_new_tokens=infer.max_new_tokens,
            length_penalty=infer.length_penalty,
            sampling=infer.sampling,
            seeds=[image_seed(self._params.base.seed, encodable(path)) for path in paths],
            grammar=grammar,
        )

    def _add_suggestions(
        self, records: Sequence[Record], batch: Mapping[str, Tensor], words: PhotoWords
    ) -> None:
        scores = words.scores(batch)
        if self._pairs is not None:
            pairs = self._pairs(batch["pairs"])
            from compositional_prompts.deployment.suggestions import enhanced_prompts

            prompts = enhanced_prompts(pairs, scores, words.scorer, self._params.enhance)
            for record, prompt in zip(records, prompts, strict=True):
                record["enhanced"] = rounded(prompt)
        if self._wishes.scores:
            for row, record in enumerate(records):
                record["scores"] = {
                    group: dict(zip(names, rounded(scores[group][row].tolist()), strict=True))
                    for group, names in words.scorer.words.items()
                }

    def _add_recommendation(self, record: Record, slots: Mapping[str, str | None] | None) -> None:
        """What is made of the words in the caption's places, None where it is off the template."""
        if self._wishes.scores:
            record["slots"] = slots
        if self._wishes.recommended is not None:
            titled = self._params.finetune.target == "title"  # such captions follow no template
            own = self._wishes.recommended == CAPTION and (titled or slots is not None)
            record["recommended"] = record["caption"] if own else record["enhanced"]["prompt"]
            record["source"] = CAPTION if own else ENHANCED
            slots = slots if own else _slots_of(record["enhanced"])
        if self._wishes.readable:
            record["readable"] = record["caption"] if slots is None else self._readable.write(slots)


def _slots_of(enhanced: Mapping[str, Any]) -> dict[str, str | None]:
    """The words of an enhanced prompt, by place."""
    pair = {"attribute": enhanced["attribute"], "object": enhanced["object"]}
    return pair | dict(enhanced["words"])


def caption_photos(
    named: Iterable[Path],
    params: Params,
    *,
    blip2: Path,
    adapter: Path,
    wishes: Wishes = NOTHING_BESIDE,
    batch_size: int = 16,
) -> Iterator[Record]:
    """Caption the photos of files and folders.

    Memory holds the models, a few batches, and the paths of one folder.

    Args:
        named: files and folders.
        params: as :class:`PhotoCaptioner`; and ``base.workers`` decode, ``download.max_pixels``
            is the largest photo.
        blip2: folder of the base model.
        adapter: folder of the adapter.
        wishes: what is wanted beside the captions.
        batch_size: photos at once; never changes a result.

    Yields:
        A record a photo, in order, each batch as soon as it is done.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as :class:`PhotoCaptioner`, before any photo.
    """
    models = PhotoCaptioner(params, blip2, adapter, wishes)
    batches = read_photos(
        find_photos(named),
        models.prepare,
        max_pixels=params.download.max_pixels,
        batch_size=batch_size,
        workers=params.base.workers,
    )
    for photos in batches:
        usable = [photo for photo in photos if isinstance(photo, Prepared)]
        described = iter(
            models.describe([str(photo.path) for photo in usable], [p.inputs for p in usable])
        )
        for photo in photos:
            yield _set_aside(photo) if isinstance(photo, SetAside) else next(described)


def _set_aside(photo: SetAside) -> Record:
    record = {"path": str(photo.path), "error": photo.reason}
    return record | ({"detail": photo.detail} if photo.detail else {})


def with_overrides(params: Params, *, device: str | None, **infer: Any) -> Params:
    """Parameters with what the command line says instead; None says nothing.

    Args:
        params: as in ``params.yaml``.
        device: instead of ``base.device``.
        infer: instead of keys of the section ``infer``.

    Raises:
        ParameterError: the keys do not go together.
    """
    changes = {name: value for name, value in infer.items() if value is not None}
    document = params.model_dump()
    document["infer"] |= changes
    if device is not None:
        document["base"]["device"] = device
    return checked(document, "params.yaml with the options given")
