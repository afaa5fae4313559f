"""Fine-tuning BLIP-2: the report's loop against ours, and ours as the data grow.

The report's loop, as in PEFT's example for BLIP-2: three images a step, in random order; each is
decoded and preprocessed when its turn comes; the whole model runs in training mode, vision tower
and Q-Former (with its dropout) included, on pixels and a text of image placeholders and caption,
padded to the longest of the step; logits and loss are transformers' own. Two things it did are
mended, or the losses could not be compared: pads and placeholders are masked in labels and
attention, and the learning rate falls as ours does. It trains the same adapter at the same learning
rate on as many images.

Ours is `finetune()` as the stage calls it: cached query features, batches of captions of similar
length, validation after every epoch, and the adapter written, all of it in its time. What the
cache costs, which is made once, stands in the table, apart and added.

    python benchmarks/finetune.py                       # a random model of the sample's size
    python benchmarks/finetune.py --blip2 models/blip2  # the sample's own
    python benchmarks/finetune.py --rows 1000 10000 100000  # synthetic features, an epoch each

Ours at three images a step shows that both loops learn the same from the same (but for the order
of the images and the Q-Former's dropout): the loss curves, a point an epoch, lie on one another.
At more images a step there are fewer steps; the learning rate then grows as the root of the batch.

Times are the least of `--repeats` runs, which take turns, so that what else a machine does meets
all. On a busy machine set OMP_NUM_THREADS=1: small operations in several threads wait for one
another, which slows the report's loop most and would flatter ours.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring.random_weights import draw_weights
from measuring.resources import peak_memory
from torch import Tensor
from transformers import get_scheduler

from compositional_prompts.captioner.blip2_pretraining import (
    save_micro_captioner,
    train_tokenizer,
    untrained_captioner,
)
from compositional_prompts.captioner.features.feature_store import FeatureStore, write_features
from compositional_prompts.captioner.model.blip2_model import Captioner, complete, load_captioner
from compositional_prompts.captioner.model.caption_tokens import tokenize_captions
from compositional_prompts.captioner.model.forward import (
    IGNORED,
    caption_logits,
    caption_loss,
    query_features,
)
from compositional_prompts.captioner.model.lora import add_adapter
from compositional_prompts.captioner.parameters import Finetune
from compositional_prompts.captioner.training.caption_batches import CaptionPairs
from compositional_prompts.captioner.training.caption_trainer import finetune
from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.compute.devices import resolve_device, seed_everything
from compositional_prompts.compute.progress import progress
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.sample.drawn_products import generate_catalog

REPORT_BATCH = 3
WARMUP_RATIO = 0.1
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


@dataclass
class Measured:
    """A run: seconds, peak memory (MiB beyond what was in use before) and losses an epoch."""

    seconds: float
    memory: float
    train_losses: list[float]
    val_losses: list[float]


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


def cache_features(captioner: Captioner, parts: Sequence[Data], out: Path) -> float:
    """The frozen half of every image, 64 at a time, into ``out``; return the seconds."""
    start = time.perf_counter()

    def batches() -> Iterator[tuple[list[str], Tensor]]:
        for data in parts:
            for first in range(0, len(data.encoded), 64):
                part = slice(first, first + 64)
                images = [captioner.preprocess(decode_rgb(file)) for file in data.encoded[part]]
                pixel_values = torch.stack(images).to(captioner.device)
                with torch.inference_mode(), captioner.autocast():
                    queries = query_features(captioner.model, pixel_values)
                yield list(data.pairs.image_ids[part]), queries.half().cpu()

    write_features(batches(), out)
    return time.perf_counter() - start


@torch.inference_mode()
def validation_loss(
    captioner: Captioner, features: FeatureStore, pairs: CaptionPairs, max_tokens: int
) -> float:
    """Mean loss a token, in evaluation mode."""
    tokens = tokenize_captions(captioner, pairs.captions, max_tokens).to(captioner.device)
    queries = features.read(features.positions(pairs.image_ids)).to(captioner.device)
    with captioner.autocast():
        return float(caption_loss(*caption_logits(captioner.model, queries, tokens)))


def train_as_the_report(
    blip2: Path,
    device: torch.device,
    train: Data,
    val: Data,
    features: FeatureStore,
    params: Finetune,
    seed: int,
) -> Measured:
    """The whole model a step, three images a step; validation is not in its time."""
    captioner = load_captioner(blip2, device, params.precision)
    complete(captioner)
    seed_everything(seed)
    add_adapter(captioner, params.lora)
    model: Any = captioner.model
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=params.learning_rate, weight_decay=params.weight_decay
    )
    rows = len(train.encoded)
    steps = params.epochs * -(-rows // REPORT_BATCH)
    scheduler = get_scheduler(
        params.schedule, optimizer, num_warmup_steps=0, num_training_steps=steps
    )
    images = [model.config.image_token_index] * model.config.num_query_tokens
    measured = Measured(0.0, 0.0, [], [])
    for _ in progress(range(params.epochs), "the report's epochs"):
        model.train()
        total, count = 0.0, 0
        start = time.perf_counter()
        with peak_memory(device) as memory:
            for chosen in torch.randperm(rows).split(REPORT_BATCH):
                batch = chosen.tolist()
                pixel_values = torch.stack(
                    [captioner.preprocess(decode_rgb(train.encoded[row])) for row in batch]
                )
                captions = [train.pairs.captions[row] for row in batch]
                tokens = tokenize_captions(captioner, captions, params.max_tokens)
                prefix = torch.tensor(images).expand(len(batch), -1)
                labels = tokens.ids.masked_fill(tokens.mask == 0, IGNORED)
                labels[:, : len(captioner.begin_of_text)] = IGNORED
                inputs = {
                    "pixel_values": pixel_values,
                    "input_ids": torch.cat([prefix, tokens.ids], 1),
                    "attention_mask": torch.cat([torch.ones_like(prefix), tokens.mask], 1),
                    "labels": torch.cat([torch.full_like(prefix, IGNORED), labels], 1),
                }
                with captioner.autocast():
                    loss = model(**{key: value.to(device) for key, value in inputs.items()}).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
                labelled = int((labels != IGNORED).sum())
                total += loss.item() * labelled
                count += labelled
        measured.seconds += time.perf_counter() - start
        measured.memory = max(measured.memory, memory[0])
        measured.train_losses.append(total / count)
        model.eval()
        measured.val_losses.append(
            validation_loss(captioner, features, val.pairs, params.max_tokens)
        )
    return measured


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
    with tempfile.TemporaryDirectory() as folder, peak_memory(device) as memory:
        curve = Path(folder) / "curve.csv"
        start = time.perf_counter()
        finetune(
            captioner,
            features,
            train.pairs,
            val.pairs,
            params,
            **GRAMMAR,
            seed=seed,
            adapter=Path(folder) / "lora",
            curve=curve,
        )
        seconds = time.perf_counter() - start
        with curve.open() as file:
            rows = list(csv.DictReader(file))
    return Measured(
        seconds,
        memory[0],
        [float(row["train_loss"]) for row in rows],
        [float(row["val_loss"]) for row in rows],
    )


def print_curves(runs: Mapping[str, Measured], images: int) -> None:
    """Losses of every way after every epoch, in nats a token."""
    print("\nLoss, nats a token: training (running mean, with dropout) / validation")
    print(f"{'images':>8}" + "".join(f"{name:>22}" for name in runs))
    for epoch in range(len(next(iter(runs.values())).train_losses)):
        cells = (
            f"{run.train_losses[epoch]:.4f} / {run.val_losses[epoch]:.4f}" for run in runs.values()
        )
        print(f"{(epoch + 1) * images:>8}" + "".join(f"{cell:>22}" for cell in cells))


def plot_curves(runs: Mapping[str, Measured], images: int, path: Path) -> None:
    """The same as a figure."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for number, (name, run) in enumerate(runs.items()):
        seen = [images * epoch for epoch in range(1, len(run.train_losses) + 1)]
        axes.plot(seen, run.train_losses, color=f"C{number}", label=f"{name}, training")
        axes.plot(seen, run.val_losses, color=f"C{number}", ls="--", label=f"{name}, validation")
    axes.set(xlabel="images seen", ylabel="nats a token")
    axes.legend()
    figure.savefig(path, dpi=150)


def compare(arguments: argparse.Namespace, params: Finetune, device: torch.device) -> None:
    """Train every way and print rates, memory and losses."""
    seed = arguments.seed
    train = drawn(arguments.images, seed, "train")
    val = drawn(VALIDATION, seed + 1, "val")
    small = params.model_copy(update={"batch_size": REPORT_BATCH})
    # Adam wants a rate that grows as the root of the batch (Malladi et al., 2022), and a ramp.
    scale = math.sqrt(params.batch_size / REPORT_BATCH)
    large = params.model_copy(
        update={"learning_rate": scale * params.learning_rate, "warmup_ratio": WARMUP_RATIO}
    )
    report, same, ours = (
        "report",
        f"ours, {REPORT_BATCH} a step",
        f"ours, {params.batch_size} a step",
    )
    runs: dict[str, list[Measured]] = {report: [], same: [], ours: []}
    with tempfile.TemporaryDirectory() as folder:
        blip2: Path = arguments.blip2 or Path(folder) / "blip2"
        if arguments.blip2 is None:
            write_random_model(blip2, train.pairs.captions, seed, width=128, layers=4, queries=16)
        frozen = load_captioner(blip2, device, params.precision, half="frozen")
        cache = Path(folder) / "features"
        cache_features(frozen, [Data(train.encoded[:64], train.pairs)], Path(folder) / "warm")
        cache_seconds = cache_features(frozen, [train, val], cache)
        cache_seconds *= len(train.encoded) / (len(train.encoded) + len(val.encoded))
        del frozen
        data = (blip2, device, train, val, FeatureStore(cache))
        for _ in range(arguments.repeats):
            runs[report].append(train_as_the_report(*data, params, seed))
            runs[same].append(train_as_the_pipeline(*data, small, seed))
            runs[ours].append(train_as_the_pipeline(*data, large, seed))
    best = {name: min(run.seconds for run in measured) for name, measured in runs.items()}
    memory = {name: max(run.memory for run in measured) for name, measured in runs.items()}
    seen = len(train.encoded) * params.epochs
    described = "of random weights" if arguments.blip2 is None else str(arguments.blip2)
    print(
        f"Model {described}, {params.precision}, {device.type}, {torch.get_num_threads()} threads; "
        f"{len(train.encoded)} images, {params.epochs} epochs, learning rate "
        f"{params.learning_rate:g} ({large.learning_rate:.2g} at {params.batch_size} a step), "
        f"best of {arguments.repeats}"
    )
    print(f"{'':46}{'seconds':>9}{'images/s':>10}{'ratio':>7}{'peak MiB':>10}")
    rows = [
        (f"the report's loop, whole model, {REPORT_BATCH} a step", best[report], memory[report]),
        (f"ours, cached features, {REPORT_BATCH} a step", best[same], memory[same]),
        (f"ours, cached features, {params.batch_size} a step", best[ours], memory[ours]),
        ("the same, with making the cache", best[ours] + cache_seconds, memory[ours]),
    ]
    for name, seconds, peak in rows:
        ratio = best[report] / seconds
        print(f"{name:46}{seconds:>9.2f}{seen / seconds:>10.1f}{ratio:>7.1f}{peak:>10.0f}")
    last = {name: measured[-1] for name, measured in runs.items()}
    print_curves(last, len(train.encoded))
    if arguments.plot is not None:
        plot_curves(last, len(train.encoded), arguments.plot)


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
    parser.add_argument("--images", type=int, default=384, help="images to train on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32, help="images a step of ours")
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", help="measure growth over so many rows")
    parser.add_argument("--plot", type=Path, help="PNG to draw the loss curves into")
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
            # Captions on the way are no part of training; the report wrote none.
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
