"""Captions from photos: transformers' batched `generate` against ours; free against constrained.

Both get the same encoded photos, one after another the same number at once, with the adapter merged
into the weights, and write captions by the same beam search. Both preprocess a batch in one call
where that is quicker, and each takes its own best batch and number of threads. Their captions must
be equal, or the benchmark fails. Beside them stand the report's way (one photo at a time, the
adapter beside the weights) and ours from cached query features, whose making is not counted.

Then the share of what both do alike is printed (photos, vision tower, Q-Former), and with it the
ratio that a search of no cost would reach.

Then the images of the split are captioned freely and by the grammar of the enhanced prompts:
speed, forward passes of the language model and tokens that they read, share of captions in the
prompt's form, and how often each of their words is that of the enhanced prompt.

It measures the models and data of a project in which `dvc repro` has run. On a machine that others
share, one thread and processor seconds are to be trusted:

    python benchmarks/caption.py --project .
    OMP_NUM_THREADS=1 python benchmarks/caption.py --project . --threads 1
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring.resources import peak_memory
from peft import PeftModel
from torch import Tensor

from compositional_prompts.captioner.decoding.caption_generation import (
    TOWER_BATCH,
    generate_captions,
)
from compositional_prompts.captioner.decoding.token_automaton import compile_grammar
from compositional_prompts.captioner.features.feature_shards import write_features
from compositional_prompts.captioner.features.feature_store import FeatureStore
from compositional_prompts.captioner.model.blip2_model import Captioner, load_captioner
from compositional_prompts.captioner.model.forward import query_features
from compositional_prompts.captioner.model.lora import load_adapter
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.reading import iterate_batches
from compositional_prompts.catalog.splitting.split_images import split_images
from compositional_prompts.catalog.splitting.split_tables import PAIRS
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.enhancement.enhanced_prompts import prompts_of
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.tables import read_table
from compositional_prompts.prompt.template import PromptTemplate


@dataclass
class Measured:
    """Outcome of a run: captions, seconds, those of processors, and memory in MiB beyond what was
    in use before.
    """

    captions: list[str]
    seconds: float
    processor: float
    memory: float


def run_once(run: Callable[[], list[str]], device: torch.device) -> Measured:
    """Run and measure."""
    with peak_memory(device) as memory:
        start, computed = time.perf_counter(), time.process_time()
        captions = run()
        seconds, computed = time.perf_counter() - start, time.process_time() - computed
    return Measured(captions, seconds, computed, memory[0])


def best_of(runs: Sequence[Measured]) -> Measured:
    """The least seconds of either kind of all runs, and the most memory."""
    return Measured(
        runs[0].captions,
        min(run.seconds for run in runs),
        min(run.processor for run in runs),
        max(run.memory for run in runs),
    )


def measure(run: Callable[[], list[str]], device: torch.device, repeats: int) -> Measured:
    """The best of several runs."""
    return best_of([run_once(run, device) for _ in range(repeats)])


def encoded_images(catalog: Path, image_ids: Sequence[str]) -> list[bytes]:
    """The files of the given images, in their order."""
    wanted = set(image_ids)
    found: dict[str, bytes] = {}
    for batch in iterate_batches(catalog, ["image_id", "image"], None, 256):
        names = batch.column("image_id").to_pylist()
        files = batch.column("image").field("bytes").to_pylist()
        found |= {n: f for n, f in zip(names, files, strict=True) if n in wanted}
    return [found[image_id] for image_id in image_ids]


def caption_cached(
    captioner: Captioner,
    store: FeatureStore,
    image_ids: Sequence[str],
    batch_size: int,
    **options: Any,
) -> list[str]:
    """Captions of cached features, as ``infer`` computes them."""
    positions = store.positions(image_ids)
    captions: list[str] = []
    for start in range(0, len(image_ids), batch_size):
        queries = store.read(positions[start : start + batch_size])
        captions += generate_captions(captioner, queries, graphs=True, **options)
    return captions


def cache_features(
    captioner: Captioner, image_ids: Sequence[str], encoded: Sequence[bytes], out: Path
) -> float:
    """The frozen half of every image, 64 at a time, into ``out``; return the seconds."""
    start = time.perf_counter()

    def batches() -> Iterator[tuple[list[str], Tensor]]:
        for first in range(0, len(encoded), 64):
            part = slice(first, first + 64)
            images = [captioner.preprocess(decode_rgb(file)) for file in encoded[part]]
            pixel_values = torch.stack(images).to(captioner.device)
            with torch.inference_mode(), captioner.autocast():
                queries = query_features(captioner.model, pixel_values)
            yield list(image_ids[part]), queries.half().cpu()

    write_features(batches(), out)
    return time.perf_counter() - start


@torch.inference_mode()
def caption_as_the_report(
    captioner: Captioner, encoded: Sequence[bytes], num_beams: int, max_new_tokens: int
) -> list[str]:
    """One image at a time, from the photo on, by transformers' generate on the whole model."""
    model: Any = captioner.model
    captions: list[str] = []
    prompt = [model.config.image_token_index] * model.config.num_query_tokens
    prompt += captioner.begin_of_text
    input_ids = torch.tensor([prompt], device=captioner.device)
    for file in encoded:
        pixel_values = captioner.preprocess(decode_rgb(file))[None].to(captioner.device)
        with captioner.autocast():
            tokens = model.generate(
                pixel_values=pixel_values,
                input_ids=input_ids,
                num_beams=num_beams,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                early_stopping=num_beams > 1,
                eos_token_id=captioner.end_of_caption,
                pad_token_id=captioner.padding,
            )
        # A decoder-only model gives its prompt back.
        text = tokens[0, len(prompt) :] if captioner.begin_of_text else tokens[0]
        captions.append(captioner.tokenizer.decode(text, skip_special_tokens=True).strip())
    return captions


def in_batches(files: Sequence[bytes], size: int) -> list[Sequence[bytes]]:
    """The files, so many at once."""
    return [files[start : start + size] for start in range(0, len(files), size)]


def pixels_of(captioner: Captioner, files: Sequence[bytes]) -> Tensor:
    """pixel_values of encoded photos, preprocessed in one call, ``[n, 3, H, W]`` on the device."""
    images = [decode_rgb(file) for file in files]
    inputs = captioner.processor.image_processor(images=images, return_tensors="pt")
    pixel_values: Tensor = inputs["pixel_values"].to(captioner.device)
    return pixel_values


@torch.inference_mode()
def caption_by_transformers(
    captioner: Captioner, encoded: Sequence[bytes], batch: int, num_beams: int, max_new_tokens: int
) -> list[str]:
    """A batch at a time, from the photo on, by transformers' generate."""
    model: Any = captioner.model
    prompt = [model.config.image_token_index] * model.config.num_query_tokens
    prompt += captioner.begin_of_text
    captions: list[str] = []
    for files in in_batches(encoded, batch):
        input_ids = torch.tensor([prompt], device=captioner.device).expand(len(files), -1)
        with captioner.autocast():
            tokens = model.generate(
                pixel_values=pixels_of(captioner, files),
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                num_beams=num_beams,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                early_stopping=num_beams > 1,
                eos_token_id=captioner.end_of_caption,
                pad_token_id=captioner.padding,
            )
        # A decoder-only model gives its prompt back.
        texts = tokens[:, len(prompt) :] if captioner.begin_of_text else tokens
        written = captioner.tokenizer.batch_decode(texts, skip_special_tokens=True)
        captions += [text.strip() for text in written]
    return captions


def caption_by_ours(
    captioner: Captioner, encoded: Sequence[bytes], batch: int, num_beams: int, max_new_tokens: int
) -> list[str]:
    """A batch at a time, from the photo on, by :func:`generate_captions`."""
    captions: list[str] = []
    for files in in_batches(encoded, batch):
        captions += generate_captions(
            captioner,
            pixels_of(captioner, files),
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            graphs=True,
        )
    return captions


def shared_part(captioner: Captioner, encoded: Sequence[bytes]) -> float:
    """Processor seconds of what both ways do alike: photos, vision tower and Q-Former."""
    start = time.process_time()
    with torch.inference_mode(), captioner.autocast():
        for files in in_batches(encoded, TOWER_BATCH):
            query_features(captioner.model, pixels_of(captioner, files))
    return time.process_time() - start


@dataclass(frozen=True)
class Way:
    """One way to caption the photos."""

    name: str
    run: Callable[[], list[str]]
    threads: int


def compare(ways: Sequence[Way], device: torch.device, repeats: int) -> dict[str, Measured]:
    """Let the ways take turns; each figure of a name is the best of the ways of that name.

    Raises:
        AssertionError: captions differ.
    """
    runs: dict[Way, list[Measured]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            torch.set_num_threads(way.threads)
            runs[way].append(run_once(way.run, device))
    first = runs[ways[0]][0].captions
    named: dict[str, list[Measured]] = {}
    for way, measured in runs.items():
        for run in measured:
            check_same(run.captions, first)
        result = best_of(measured)
        print(
            f"  {way.name}, {way.threads} threads: {result.seconds:.2f} s, "
            f"{result.processor:.2f} of processors, {result.memory:.0f} MiB",
            flush=True,
        )
        named.setdefault(way.name.partition(",")[0], []).append(result)
    return {name: best_of(measured) for name, measured in named.items()}


@contextmanager
def rounded_as_the_cache(model: Any) -> Iterator[None]:
    """Round the Q-Former's output to float16, or the two would not caption the same."""

    def rounded(module: Any, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.half().float()
        return output

    handle = model.qformer.register_forward_hook(rounded)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def counted_passes(model: Any) -> Iterator[list[int]]:
    """Fill the list with the positions that each pass of the language model reads."""
    positions: list[int] = []

    def count(module: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        read = kwargs.get("input_ids")
        read = kwargs["inputs_embeds"] if read is None else read
        positions.append(read.shape[0] * read.shape[1])

    handle = model.language_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield positions
    finally:
        handle.remove()


def check_same(ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Raise AssertionError where captions differ, showing the first."""
    different = [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]]
    if different:
        raise AssertionError(
            f"{len(different)} of {len(ours)} captions differ; the first: {different[0]}"
        )


def slot_accuracies(
    template: PromptTemplate, captions: Sequence[str], prompts: Sequence[str]
) -> dict[str, float]:
    """Share of captions in the prompt's form, of equal ones, and of equal words by their place."""
    read = [template.read_slots(caption) for caption in captions]
    wanted = [template.read_slots(prompt) for prompt in prompts]
    shares = {
        "valid": sum(slots is not None for slots in read),
        "exact": sum(a == b for a, b in zip(captions, prompts, strict=True)),
    }
    for place in ("attribute", "object", *template.groups):
        shares[place] = sum(
            ours is not None and theirs is not None and ours[place] == theirs[place]
            for ours, theirs in zip(read, wanted, strict=True)
        )
    return {name: count / len(captions) for name, count in shares.items()}


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--project", type=Path, default=Path(), help="where `dvc repro` has run")
    parser.add_argument("--images", type=int, default=128, help="images to caption every way")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--batch", type=int, default=128, help="from the cache, and of the report")
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3, help="the least of each figure counts")
    parser.add_argument("--report-images", type=int, default=16, help="by the report's way")
    parser.add_argument("--device", choices=["cpu", "cuda", "auto"], default="cpu")
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    project: Path = arguments.project
    if not (project / "models" / "blip2_lora").is_dir():
        parser.error(f"{project / 'models' / 'blip2_lora'} is missing: run `dvc repro` there.")

    device = resolve_device(arguments.device)
    data, models = project / "data", project / "models"
    image_ids = split_images(data / "splits.parquet", "test", None, 0).to_pylist()
    some = image_ids[: arguments.images]
    encoded = encoded_images(data / "catalog", image_ids)
    options = {"num_beams": arguments.beams, "max_new_tokens": arguments.max_new_tokens}
    batch = {"batch_size": arguments.batch, **options}

    adapted = load_captioner(models / "blip2", device, arguments.precision)
    PeftModel.from_pretrained(adapted.model, str(models / "blip2_lora")).eval()
    merged = load_captioner(models / "blip2", device, arguments.precision)
    load_adapter(merged, models / "blip2_lora")
    photos = encoded[: len(some)]
    ways = [
        Way(f"{name}, {size} at once", partial(run, merged, photos, size, **options), threads)
        for threads in sorted(set(arguments.threads))
        for size in arguments.batches
        for name, run in (
            ("transformers' generate", caption_by_transformers),
            ("ours", caption_by_ours),
        )
    ]
    print(f"{len(some)} photos with {arguments.beams} beams, the same captions all ways")
    # The first pass of a model is slower than the rest: it is not counted.
    for run in (caption_by_transformers, caption_by_ours):
        run(merged, photos[:2], 2, **options)
    best = compare(ways, device, arguments.repeats)
    peer, ours = best["transformers' generate"], best["ours"]
    torch.set_num_threads(min(arguments.threads))
    shared = min(shared_part(merged, photos) for _ in range(arguments.repeats))
    few = photos[: arguments.report_images]
    caption_as_the_report(adapted, few[:1], **options)
    alone = run_once(lambda: caption_as_the_report(adapted, few, **options), device)
    check_same(alone.captions, peer.captions[: len(few)])
    print(f"\n{'':46}{'captions/s':>12}{'ratio':>8}{'a processor second':>20}{'ratio':>8}")
    for name, run, count in (
        ("the report's, one at a time", alone, len(few)),
        ("transformers' generate, batched", peer, len(some)),
        ("ours", ours, len(some)),
    ):
        share = count / len(some)
        print(
            f"{name:46}{count / run.seconds:>12.1f}{share * peer.seconds / run.seconds:>8.2f}"
            f"{count / run.processor:>20.1f}{share * peer.processor / run.processor:>8.2f}"
        )
    print(
        f"photos, vision tower and Q-Former, which both do alike: {shared:.2f} s of processors; "
        f"searching: {peer.processor - shared:.2f} transformers', {ours.processor - shared:.2f} "
        f"ours ({(peer.processor - shared) / (ours.processor - shared):.2f} times); with a search "
        f"of no cost the ratio were {peer.processor / shared:.2f}\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        cache_seconds = cache_features(merged, image_ids, encoded, Path(folder) / "features")
        store = FeatureStore(Path(folder) / "features")
        with rounded_as_the_cache(merged.model):
            expected = caption_by_ours(merged, photos, arguments.batch, **options)
        cached = measure(
            lambda: caption_cached(merged, store, some, **batch), device, arguments.repeats
        )
        check_same(cached.captions, expected)
        per_image = cache_seconds / len(image_ids)
        print(
            f"from the cache, {arguments.batch} at a time: {len(some) / cached.processor:.1f} "
            f"captions a processor second; making it, once: {1 / per_image:.1f} images/s\n"
        )

        words = read_vocabulary(data / "embeddings" / "words.parquet").words
        pairs = read_table(data / "pairs.parquet", PAIRS).select(["attribute", "object"])
        names = [(pair["attribute"], pair["object"]) for pair in pairs.to_pylist()]
        template = PromptTemplate(list(words), attributes=[attribute for attribute, _ in names])
        grammar = compile_grammar(
            template.alternatives(names, words), merged.tokenizer, merged.end_of_caption
        )
        prompts = prompts_of(data / "prompts" / "enhanced.parquet", image_ids)
        print(f"{len(image_ids)} captions, {arguments.batch} at a time, against enhanced prompts")
        for name, rules in (("free", None), ("by the grammar", grammar)):
            run = measure(
                lambda g=rules: caption_cached(merged, store, image_ids, **batch, grammar=g),
                device,
                arguments.repeats,
            )
            with counted_passes(merged.model) as positions:
                caption_cached(merged, store, image_ids, **batch, grammar=rules)
            batches = -(-len(image_ids) // arguments.batch)
            print(
                f"{name}: {len(image_ids) / run.processor:.1f} captions a processor second, "
                f"{len(positions) / batches:.1f} passes a batch, "
                f"{sum(positions) / len(image_ids):.0f} positions an image, "
                f"{run.memory:.0f} MiB at the peak"
            )
            shares = slot_accuracies(template, run.captions, prompts)
            print("   " + ", ".join(f"{place} {share:.1%}" for place, share in shares.items()))


if __name__ == "__main__":
    main()
