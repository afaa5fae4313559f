"""Fine-tuning BLIP-2: transformers' Trainer with PEFT against ours, and ours as the data grow.

The Trainer has what its users would give it: the same adapter by PEFT, fused AdamW, random batches
padded to their longest caption, the same rates, schedule and batch size, and images that are
decoded and preprocessed once, before the first epoch, and kept in memory. It runs the whole model a
step, in training mode, on pixels and a text of image placeholders and caption; placeholders and
pads are masked. It does not validate in its time.

Ours is `finetune()` as the stage calls it: cached query features, validation after every epoch, and
the adapter written, all of it in its time; and so is the making of the cache, which one more run
of the same images would find made. Both run for the same epochs, and the script fails where our
validation loss, measured alike on both, is more than TOLERANCE above the Trainer's.

    python benchmarks/finetune.py                       # a random model of the sample's size
    python benchmarks/finetune.py --blip2 models/blip2  # the sample's own
    python benchmarks/finetune.py --rows 1000 10000 100000  # synthetic features, an epoch each

Times are the least of `--repeats` runs, which take turns, so that what else a machine does meets
all; each side runs with every number of `--threads` and counts at its best. On a busy machine give
`--threads 1 --clock processor`: the processor's time is steadier than a clock on the wall.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring.random_weights import draw_weights
from measuring.resources import peak_memory
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from compositional_prompts.captioner.blip2_pretraining import (
    save_micro_captioner,
    train_tokenizer,
    untrained_captioner,
)
from compositional_prompts.captioner.features.feature_shards import write_features
from compositional_prompts.captioner.features.feature_store import FeatureStore
from compositional_prompts.captioner.model.blip2_model import (
    Captioner,
    complete,
    default_target_modules,
    load_captioner,
)
from compositional_prompts.captioner.model.caption_tokens import tokenize_captions
from compositional_prompts.captioner.model.forward import (
    IGNORED,
    caption_logits,
    caption_loss,
    query_features,
)
from compositional_prompts.captioner.model.lora import load_adapter
from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.captioner.training.caption_batches import CaptionPairs
from compositional_prompts.captioner.training.caption_trainer import finetune
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.compute.devices import resolve_device, seed_everything
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.sample.drawn_products import generate_catalog

TOLERANCE = 1.02
"""How much higher our validation loss may be; another seed changes it by up to a twentieth."""

VOCABULARY = 1001
VALIDATION = 64
GRAMMAR: dict[str, Any] = {"pairs": [("Canvas", "Sandals")], "words": {"color": ["white"]}}
"""What is written beside the adapter; here nobody reads it."""


def write_random_model(
    folder: Path, captions: Sequence[str], seed: int, *, width: int, layers: int, queries: int
) -> None:
    """A BLIP-2 with OPT, of random weights, in transformers' layout.

    With width 128, 4 layers and 16 queries it has the sizes of the sample's micro model: three
    layers in its vision tower, two in its Q-Former.
    """
    torch.manual_seed(seed)
    captioner = untrained_captioner(
        train_tokenizer(captions),
        width=width,
        layers=layers,
        queries=queries,
        vocabulary=VOCABULARY,
    )
    draw_weights(captioner.model, std=0.1)
    save_micro_captioner(captioner, folder)


@dataclass(frozen=True)
class Data:
    """Images, as files and by name, with their captions."""

    encoded: Sequence[bytes]
    pairs: CaptionPairs


@dataclass(frozen=True)
class Measured:
    """A run: seconds on the wall and of the processor, and the validation loss, nats a token."""

    wall: float
    processor: float
    loss: float


class Stopwatch:
    """Both clocks over a block: ``times``, seconds on the wall and of the processor."""

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall, processor = self._start
        self.times = time.perf_counter() - wall, time.process_time() - processor


def drawn(images: int, seed: int, prefix: str) -> Data:
    """Generated photos, captioned as `enhance` would if it were always right."""
    photos = list(generate_catalog(images, seed, workers=1))
    captions = [
        f"A photo of {photo.attribute}_{photo.object} with {photo.color} color and "
        f"{photo.material} material"
        for photo in photos
    ]
    ids = [f"{prefix}-{number}" for number in range(len(photos))]
    return Data([photo.image for photo in photos], CaptionPairs(ids, captions))


def cache_features(captioner: Captioner, parts: Sequence[Data], out: Path) -> None:
    """The frozen half of every image, 32 at a time, into ``out``."""

    def batches() -> Iterator[tuple[list[str], Tensor]]:
        for data in parts:
            for first in range(0, len(data.encoded), 32):
                part = slice(first, first + 32)
                images = [captioner.preprocess(decode_rgb(file)) for file in data.encoded[part]]
                pixel_values = torch.stack(images).to(captioner.device)
                with torch.inference_mode(), captioner.autocast():
                    queries = query_features(captioner.model, pixel_values)
                yield list(data.pairs.image_ids[part]), queries.half().cpu()

    write_features(batches(), out)


@torch.inference_mode()
def validation_loss(
    captioner: Captioner, features: FeatureStore, pairs: CaptionPairs, params: Finetune
) -> float:
    """Mean loss a token, in evaluation mode."""
    tokens = tokenize_captions(captioner, pairs.captions, params.max_tokens).to(captioner.device)
    queries = features.read(features.positions(pairs.image_ids)).to(captioner.device)
    with captioner.autocast():
        return float(caption_loss(*caption_logits(captioner.model, queries, tokens)))


class _DecodedImages(Dataset[dict[str, Any]]):
    """Images, preprocessed once, and token ids of captions behind placeholders of the image."""

    def __init__(self, captioner: Captioner, data: Data, max_tokens: int) -> None:
        config: Any = captioner.model.config
        self._pixels = [captioner.preprocess(decode_rgb(file)) for file in data.encoded]
        self._prefix = [config.image_token_index] * config.num_query_tokens
        self._unscored = len(self._prefix) + len(captioner.begin_of_text)
        self._tokens = tokenize_captions(captioner, data.pairs.captions, max_tokens)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        tokens = self._tokens.select(torch.tensor([row]))
        ids = [*self._prefix, *tokens.ids[0].tolist()]
        labels = [IGNORED] * self._unscored + ids[self._unscored :]
        return {"pixel_values": self._pixels[row], "input_ids": ids, "labels": labels}


def _padded(padding: int, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of rows of :class:`_DecodedImages`, padded on the right to the longest."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    labels = [torch.tensor(row["labels"]) for row in rows]
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def train_by_the_trainer(
    blip2: Path,
    device: torch.device,
    train: Data,
    val: Data,
    features: FeatureStore,
    params: Finetune,
    seed: int,
) -> Measured:
    """transformers' Trainer with PEFT; validation is not in its time."""
    captioner = load_captioner(blip2, device, params.precision)
    complete(captioner)
    model: Any = captioner.model
    with tempfile.TemporaryDirectory() as folder, Stopwatch() as watch:
        seed_everything(seed)
        data = _DecodedImages(captioner, train, params.max_tokens)
        lora = LoraConfig(
            r=params.lora.r,
            lora_alpha=params.lora.alpha,
            lora_dropout=params.lora.dropout,
            target_modules=default_target_modules(model),
        )
        adapted = get_peft_model(model, lora)
        steps = params.epochs * -(-len(data) // params.batch_size)
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=params.epochs,
            per_device_train_batch_size=params.batch_size,
            learning_rate=params.learning_rate,
            lr_scheduler_type=params.schedule,
            warmup_steps=round(params.warmup_ratio * steps),
            weight_decay=params.weight_decay,
            max_grad_norm=params.max_grad_norm or 0.0,
            optim="adamw_torch_fused",
            use_cpu=device.type == "cpu",
            bf16=params.precision == "bfloat16",
            remove_unused_columns=False,
            dataloader_pin_memory=device.type == "cuda",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        )
        Trainer(
            model=adapted,
            args=arguments,
            train_dataset=data,
            data_collator=partial(_padded, captioner.padding),
        ).train()
    model.eval()
    return Measured(*watch.times, validation_loss(captioner, features, val.pairs, params))


def train_as_the_pipeline(
    blip2: Path,
    device: torch.device,
    train: Data,
    val: Data,
    features: FeatureStore,
    params: Finetune,
    seed: int,
) -> Measured:
    """:func:`finetune`, with all that it does besides training."""
    captioner = load_captioner(blip2, device, params.precision, half="language")
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "lora"
        with Stopwatch() as watch:
            finetune(
                captioner,
                features,
                train.pairs,
                val.pairs,
                params,
                **GRAMMAR,
                seed=seed,
                adapter=adapter,
                curve=Path(folder) / "curve",
            )
        captioner = load_captioner(blip2, device, params.precision, half="language")
        load_adapter(captioner, adapter)
    return Measured(*watch.times, validation_loss(captioner, features, val.pairs, params))


def best(runs: Sequence[Measured], clock: str) -> float:
    """Seconds of the fastest run by the clock that counts."""
    return min(getattr(run, clock) for run in runs)


def require_equal_losses(trainer: Sequence[Measured], ours: Sequence[Measured]) -> None:
    """Raise where one of our validation losses is above every one of the Trainer's."""
    worst, limit = max(run.loss for run in ours), max(run.loss for run in trainer) * TOLERANCE
    if worst > limit:
        raise SystemExit(f"Not an equal loss: ours {worst:.4f}, more than {limit:.4f}")


def compare(arguments: argparse.Namespace, params: Finetune, device: torch.device) -> None:
    """Train both ways and print rates and losses."""
    seed, clock = arguments.seed, arguments.clock
    train = drawn(arguments.images, seed, "train")
    val = drawn(VALIDATION, seed + 1, "val")
    ways = {"trainer": train_by_the_trainer, "ours": train_as_the_pipeline}
    runs: dict[tuple[str, int], list[Measured]] = {}
    caching: dict[tuple[str, int], list[Measured]] = {}
    with tempfile.TemporaryDirectory() as folder:
        blip2: Path = arguments.blip2 or Path(folder) / "blip2"
        if arguments.blip2 is None:
            write_random_model(blip2, train.pairs.captions, seed, width=128, layers=4, queries=16)
        frozen = load_captioner(blip2, device, params.precision, half="frozen")
        cache = Path(folder) / "features"
        cache_features(frozen, [train, val], cache)
        for repeat in range(arguments.repeats):
            for threads in arguments.threads:
                torch.set_num_threads(threads)
                with Stopwatch() as watch:
                    cache_features(frozen, [train], Path(folder) / f"cache-{repeat}-{threads}")
                caching.setdefault(("cache", threads), []).append(Measured(*watch.times, 0.0))
                for name, way in ways.items():
                    run = way(blip2, device, train, val, FeatureStore(cache), params, seed)
                    runs.setdefault((name, threads), []).append(run)
    seen = len(train.encoded) * params.epochs
    described = "of random weights" if arguments.blip2 is None else str(arguments.blip2)
    print(
        f"Model {described}, {params.precision}, {device.type}; {len(train.encoded)} images, "
        f"{params.epochs} epochs of {params.batch_size} a step, {clock} time, best of "
        f"{arguments.repeats} and of threads {arguments.threads}"
    )
    seconds = {
        name: min((best(runs[name, threads], clock), threads) for threads in arguments.threads)
        for name in ways
    }
    made = min(best(some, clock) for some in caching.values())
    print(f"{'':46}{'threads':>8}{'seconds':>9}{'images/s':>10}{'ratio':>7}{'val loss':>10}")
    rows = [
        ("transformers' Trainer with PEFT", "trainer", 0.0),
        ("ours, with making the cache", "ours", made),
        ("ours, with the cache made", "ours", 0.0),
    ]
    for label, name, extra in rows:
        took, threads = seconds[name][0] + extra, seconds[name][1]
        ratio, loss = seconds["trainer"][0] / took, runs[name, threads][-1].loss
        print(f"{label:46}{threads:>8}{took:>9.2f}{seen / took:>10.1f}{ratio:>7.2f}{loss:>10.4f}")
    require_equal_losses(
        [run for (name, _), some in runs.items() if name == "trainer" for run in some],
        [run for (name, _), some in runs.items() if name == "ours" for run in some],
    )


def measure_growth(arguments: argparse.Namespace, params: Finetune, device: torch.device) -> None:
    """An epoch over ever more synthetic rows, with a model so small that data handling shows."""
    queries, width = 16, 32
    captions = [
        f"A photo of {attribute}_{name} with {color} color and {material} material"
        for attribute in ("Canvas", "Suede", "Patent_Leather")
        for name in ("Sandals", "Ankle.Boots", "Shoes")
        for color in ("white", "black", "an unspecified", "red")
        for material in ("rubber", "fabric")
    ]
    print(f"One epoch of {params.batch_size} rows a step, {queries} x {width} features a row")
    print(f"{'rows':>8}{'seconds':>10}{'us a row':>10}{'ratio':>8}{'peak MiB':>10}")
    first = 0.0
    with tempfile.TemporaryDirectory() as folder:
        write_random_model(
            Path(folder) / "blip2", captions, arguments.seed, width=width, layers=1, queries=queries
        )
        for rows in arguments.rows:
            rng = np.random.default_rng(arguments.seed)
            ids = [f"image-{row}" for row in range(rows + VALIDATION)]
            batches = (
                (ids[start : start + 1000], torch.from_numpy(block).half())
                for start in range(0, len(ids), 1000)
                for block in [rng.normal(size=(len(ids[start : start + 1000]), queries, width))]
            )
            cache = Path(folder) / f"features-{rows}"
            write_features(batches, cache)
            chosen = [captions[number] for number in rng.integers(len(captions), size=len(ids))]
            seconds, memory = float("inf"), 0.0
            for repeat in range(arguments.repeats + 1):
                captioner = load_captioner(
                    Path(folder) / "blip2", device, params.precision, half="language"
                )
                few = 500 if repeat == 0 else rows  # the first run of all is slow: not counted
                with peak_memory(device) as peak:
                    start = time.perf_counter()
                    finetune(
                        captioner,
                        FeatureStore(cache),
                        CaptionPairs(ids[:few], chosen[:few]),
                        CaptionPairs(ids[rows:], chosen[rows:]),
                        params,
                        **GRAMMAR,
                        seed=arguments.seed,
                        adapter=Path(folder) / f"lora-{rows}",
                        curve=Path(folder) / f"curve-{rows}.csv",
                    )
                    took = time.perf_counter() - start
                if repeat:
                    seconds, memory = min(seconds, took), max(memory, peak[0])
            first = first or seconds / rows
            ratio = seconds / rows / first
            print(
                f"{rows:>8}{seconds:>10.2f}{1e6 * seconds / rows:>10.1f}{ratio:>8.2f}"
                f"{memory:>10.1f}",
                flush=True,
            )


def main() -> None:
    """Measure one of the two and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blip2", type=Path, help="folder of a BLIP-2; default: random weights")
    parser.add_argument("--images", type=int, default=480, help="images to train on")
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    parser.add_argument("--learning-rate", type=float, default=0.006)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    parser.add_argument("--rows", type=int, nargs="+", help="measure growth over so many rows")
    parser.add_argument("--device", choices=["cpu", "cuda", "auto"], default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shipped, _ = read_params(arguments.params, Finetune)
    params = shipped.model_copy(
        update={
            "epochs": 1 if arguments.rows else arguments.epochs,
            "batch_size": arguments.batch,
            "learning_rate": arguments.learning_rate,
            "precision": arguments.precision,
            # Captions on the way are no part of training; the Trainer writes none.
            "caption_every": None,
            "best_metric": "val_loss",
        }
    )
    device = resolve_device(arguments.device)
    if arguments.rows:
        measure_growth(arguments, params, device)
    else:
        compare(arguments, params, device)


if __name__ == "__main__":
    main()
