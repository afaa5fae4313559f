"""Captioning with BLIP-2: the report's way against ours, and free against constrained decoding.

The report captions one image at a time, from the photo on, with transformers' `generate` on the
whole model with its adapter and five beams. Ours searches a batch at once, from cached query
features, over one key-value cache an image, with the adapter merged. Both must write the same
captions, or the benchmark fails. What the cache costs stands in the table, apart.

Then the images of the split are captioned freely and by the grammar of the enhanced prompts:
speed, forward passes of the language model and tokens that they read, share of captions in the
prompt's form, and how often each of their words is that of the enhanced prompt.

It measures the models and data of a project in which `dvc repro` has run:

    python benchmarks/caption.py --project .
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring.resources import peak_memory
from peft import PeftModel
from torch import Tensor

from compositional_prompts.captioner.decoding.caption_generation import caption_images
from compositional_prompts.captioner.decoding.token_automaton import compile_grammar
from compositional_prompts.captioner.features.feature_store import FeatureStore, write_features
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
    """Outcome of a run: captions, seconds, and memory in MiB beyond what was in use before."""

    captions: list[str]
    seconds: float
    memory: float


def measure(run: Callable[[], list[str]], device: torch.device, repeats: int) -> Measured:
    """Run several times and keep the shortest time; the memory is that of the first run."""
    best = float("inf")
    captions: list[str] = []
    memory: list[float] = []
    for repeat in range(repeats):
        start = time.perf_counter()
        if repeat:
            captions = run()
        else:
            with peak_memory(device) as memory:
                captions = run()
        best = min(best, time.perf_counter() - start)
    return Measured(captions, best, memory[0])


def encoded_images(catalog: Path, image_ids: Sequence[str]) -> list[bytes]:
    """The files of the given images, in their order."""
    wanted = set(image_ids)
    found: dict[str, bytes] = {}
    for batch in iterate_batches(catalog, ["image_id", "image"], None, 256):
        names = batch.column("image_id").to_pylist()
        files = batch.column("image").field("bytes").to_pylist()
        found |= {n: f for n, f in zip(names, files, strict=True) if n in wanted}
    return [found[image_id] for image_id in image_ids]


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
    parser.add_argument("--images", type=int, default=64, help="images to caption either way")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3, help="of our runs; the shortest counts")
    parser.add_argument("--device", choices=["cpu", "cuda", "auto"], default="cpu")
    parser.add_argument("--precision", default="float32")
    arguments = parser.parse_args()
    project: Path = arguments.project
    if not (project / "models" / "blip2_lora").is_dir():
        parser.error(f"{project / 'models' / 'blip2_lora'} is missing: run `dvc repro` there.")

    device = resolve_device(arguments.device)
    data, models = project / "data", project / "models"
    image_ids = split_images(data / "splits.parquet", "test", None, 0)
    some = image_ids[: arguments.images]
    encoded = encoded_images(data / "catalog", image_ids)
    options = {"num_beams": arguments.beams, "max_new_tokens": arguments.max_new_tokens}
    batch = {"batch_size": arguments.batch, **options}

    adapted = load_captioner(models / "blip2", device, arguments.precision)
    PeftModel.from_pretrained(adapted.model, str(models / "blip2_lora")).eval()
    merged = load_captioner(models / "blip2", device, arguments.precision)
    load_adapter(merged, models / "blip2_lora")
    with tempfile.TemporaryDirectory() as folder:
        cache_seconds = cache_features(merged, image_ids, encoded, Path(folder) / "features")
        store = FeatureStore(Path(folder) / "features")
        # The first pass of a model is slower than the rest: it is not counted.
        caption_as_the_report(adapted, encoded[:1], **options)
        for captioner in (adapted, merged):
            caption_images(captioner, store, image_ids[:1], **batch)

        with rounded_as_the_cache(adapted.model):
            report = measure(
                lambda: caption_as_the_report(adapted, encoded[: len(some)], **options), device, 1
            )
        runs = {"from the photo, one at a time (report)": report}
        for captioner, name in ((adapted, "adapter beside"), (merged, "adapter merged")):
            for size in (1, arguments.batch):
                runs[f"from the cache, {size} at a time, {name}"] = measure(
                    lambda c=captioner, s=size: caption_images(
                        c, store, some, **{**batch, "batch_size": s}
                    ),
                    device,
                    arguments.repeats,
                )
        print(f"{len(some)} captions with {arguments.beams} beams, the same all ways")
        print(f"{'':46}{'seconds':>9}{'captions/s':>12}{'ratio':>8}{'peak MiB':>10}")
        for name, run in runs.items():
            check_same(run.captions, report.captions)
            print(
                f"{name:46}{run.seconds:>9.2f}{len(some) / run.seconds:>12.1f}"
                f"{report.seconds / run.seconds:>8.1f}{run.memory:>10.0f}"
            )
        per_image = cache_seconds / len(image_ids)
        print(f"{'making the cache, once for all runs':46}{per_image * len(some):>9.2f}")
        print(f"{'':46}{1 / per_image:>21.1f} images/s\n")

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
                lambda g=rules: caption_images(merged, store, image_ids, **batch, grammar=g),
                device,
                arguments.repeats,
            )
            with counted_passes(merged.model) as positions:
                caption_images(merged, store, image_ids, **batch, grammar=rules)
            batches = -(-len(image_ids) // arguments.batch)
            print(
                f"{name}: {len(image_ids) / run.seconds:.1f} captions/s, "
                f"{len(positions) / batches:.1f} passes a batch, "
                f"{sum(positions) / len(image_ids):.0f} positions an image, "
                f"{run.memory:.0f} MiB at the peak"
            )
            shares = slot_accuracies(template, run.captions, prompts)
            print("   " + ", ".join(f"{place} {share:.1%}" for place, share in shares.items()))


if __name__ == "__main__":
    main()
