"""Training Troika: an epoch of ours against a straightforward loop on the same images.

The straightforward loop does as the authors' train.py and model: a DataLoader whose data set opens,
resizes, augments (with torchvision) and normalises one image at a time, in every epoch again; the
three prompts are encoded one after another; their features are repeated for every image before
the traction, whose attention is written out, with QuickGELU in three operations; attention of the
image tower is `nn.MultiheadAttention`; the loss is read off after every step. Two things of it are
left out: half precision, and a data set that lists its images anew in every epoch.

Ours is `fit()` as the stage calls it, on pixels that `decode_pixels` has decoded once. What that
costs stands in the table apart, and added as a run of `--epochs-of-a-run` epochs shares it.

    python benchmarks/troika_train.py                    # a CLIP of the sample's size, on a CPU
    python benchmarks/troika_train.py --device cuda --model ViT-L-14 --batch 128 --images 2048 \
        --classes 83 --precision bfloat16

Without dropout and augmentation both must have the same loss, from the same weights in the same
order, after an epoch. With augmentation they draw different random numbers; there only time is
compared. Weights are random. Times are the least of `--repeats` runs, which take turns.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from measuring.resources import peak_memory
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from compositional_prompts.catalog.images import decode_rgb
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import open_shards
from compositional_prompts.clip.clip_pretraining import MICRO_CONFIG
from compositional_prompts.clip.open_clip_model import Clip, load_clip, save_clip
from compositional_prompts.compute.devices import resolve_device, seed_everything
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.sample.drawn_products import SampleRow, generate_catalog
from compositional_prompts.troika.model.network import BranchLogits, Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.parameters import TroikaTrain
from compositional_prompts.troika.training.pixel_cache import Normalizer, decode_pixels
from compositional_prompts.troika.training.troika_trainer import (
    Labelled,
    fit,
    training_batches,
    weighted_loss,
)

LOSS_TOLERANCE = 2e-4
"""Of the mean loss of an epoch, whose steps carry rounding on."""

WITHOUT_DROPOUT = {
    "adapter_dropout": 0.0,
    "attribute_dropout": 0.0,
    "disentangler_dropout": 0.0,
    "traction_dropout": 0.0,
}
"""Parameters with which both ways have the same loss."""


class Photos(Dataset):
    """Encoded images with their pair, decoded and transformed one at a time."""

    def __init__(self, rows: list[SampleRow], columns: Tensor, clip: Clip, augment: bool) -> None:
        self.rows = rows
        self.columns = columns
        self.clip = clip
        self.augmentation = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.RandomPerspective(),
                transforms.RandomRotation(degrees=5),
            ]
            if augment
            else []
        )
        *self.resizing, self.to_tensor, self.normalise = clip.preprocess.transforms

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image = decode_rgb(self.rows[row].image)
        for resize in self.resizing:
            image = resize(image)
        image = self.augmentation(image)
        return self.normalise(self.to_tensor(image)), self.columns[row]


def encode_images(model: Troika, pixel_values: Tensor) -> Tensor:
    """Features of all tokens, ``[batch, 1 + patches, d]``."""
    visual = model.clip.visual
    x = visual._embeds(pixel_values)
    adapters = model.adapters
    for block, attention, mlp in zip(
        visual.transformer.resblocks, adapters.attention, adapters.mlp, strict=True
    ):
        beside = attention(x) * 0.1
        x = x + block.attention(q_x=block.ln_1(x)) + beside
        beside = mlp(x) * 0.1
        x = x + block.mlp(block.ln_2(x)) + beside
    return visual.ln_post(x) @ visual.proj


def encode_texts(model: Troika, pairs: Tensor) -> list[Tensor]:
    """Features of the three branches, each encoded by itself, ``[texts, d]``."""
    prompts, clip = model.prompts, model.clip
    attributes, objects = prompts.attribute_vectors, prompts.object_vectors
    features = []
    for context, words, tail, end in (
        (
            prompts.composition_context,
            [attributes[pairs[:, 0]], objects[pairs[:, 1]]],
            prompts.composition_tail,
            prompts.composition_end,
        ),
        (prompts.attribute_context, [attributes], prompts.primitive_tail, prompts.primitive_end),
        (prompts.object_context, [objects], prompts.primitive_tail, prompts.primitive_end),
    ):
        rows = len(words[0])
        fixed = [part.repeat(rows, 1, 1) for part in (prompts.start, context, tail)]
        inserted = [word.unsqueeze(1) for word in words]
        x = torch.cat([fixed[0], fixed[1], *inserted, fixed[2]], dim=1)
        tokens = x.shape[1]
        x = x + clip.positional_embedding[:tokens]
        x = clip.transformer(x, attn_mask=clip.attn_mask[:tokens, :tokens])
        x = clip.ln_final(x)[torch.arange(rows), end] @ clip.text_projection
        features.append(x / x.norm(dim=-1, keepdim=True))
    return features


def straightforward_logits(model: Troika, pixel_values: Tensor, pairs: Tensor) -> BranchLogits:
    """What ``model`` computes, without dropout, in the most direct way."""
    batch = len(pixel_values)
    patches = encode_images(model, pixel_values)
    pooled = patches[:, 0]
    images = [pooled, model.attribute_disentangler(pooled), model.object_disentangler(pooled)]
    logits = []
    for image, text in zip(images, encode_texts(model, pairs), strict=True):
        patches = model.patch_norm(patches)
        drawn = text.unsqueeze(0).expand(batch, -1, -1)
        for layer in model.traction.layers:

            def heads(x: Tensor, count: int = layer.heads) -> Tensor:
                return x.reshape(batch, x.shape[1], count, -1).permute(0, 2, 1, 3)

            query, key, value = (
                heads(projection(x))
                for projection, x in (
                    (layer.query, drawn),
                    (layer.key, patches),
                    (layer.value, patches),
                )
            )
            weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
            attended = (weights @ value).transpose(1, 2).reshape(batch, len(text), -1)
            drawn = drawn + layer.output(attended)
            hidden = layer.mlp.expand(layer.norm(drawn))
            drawn = drawn + layer.mlp.contract(hidden * torch.sigmoid(1.702 * hidden))
        drawn = text + model.traction.gain * drawn
        drawn = drawn / drawn.norm(dim=-1, keepdim=True)
        image = image / image.norm(dim=-1, keepdim=True)
        logits.append(torch.einsum("bd,bkd->bk", image, drawn * model.clip.logit_scale.exp()))
    return BranchLogits(*logits)


@dataclass(frozen=True)
class Measured:
    """An epoch: seconds, those of processors, peak memory (MiB beyond what was in use before) and
    mean loss.
    """

    seconds: float
    processor: float
    memory: float
    loss: float


@dataclass(frozen=True)
class Task:
    """What both ways get: images with their pairs, and a model to train a copy of."""

    rows: list[SampleRow]
    columns: Tensor
    pairs: Tensor
    pixels: Tensor
    clip: Clip
    model: Troika
    params: TroikaTrain
    seed: int
    device: torch.device


def processor_seconds() -> float:
    """What this process and its finished workers have computed so far."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(device: torch.device, run: Callable[[], float]) -> Measured:
    """Time, memory and the loss that ``run`` returns."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:  # what glibc keeps of an earlier run would hide what this one takes
        give_back(0)
    with peak_memory(device) as memory:
        start, computed = time.perf_counter(), processor_seconds()
        loss = run()
        seconds, computed = time.perf_counter() - start, processor_seconds() - computed
    return Measured(seconds, computed, memory[0], loss)


def train_straightforwardly(task: Task, augment: bool, workers: int) -> Measured:
    """One epoch of the loop that the module describes."""
    params, device = task.params, task.device
    model = copy.deepcopy(task.model).train()
    optimizer = torch.optim.Adam(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=params.learning_rate,
        weight_decay=params.weight_decay,
    )
    # Only so that losses can be compared: the order that ours has in its first epoch.
    order = torch.Generator().manual_seed(task.seed * 1_000_003 + 1)
    batches = [rows.tolist() for rows in training_batches(len(task.rows), params.batch_size, order)]
    loader = DataLoader(
        Photos(task.rows, task.columns, task.clip, augment),
        batch_sampler=batches,
        num_workers=workers,
    )

    def epoch() -> float:
        total = 0.0
        for pixel_values, columns in loader:
            targets = columns.to(device)
            with torch.autocast(
                device.type, torch.bfloat16, enabled=params.precision == "bfloat16"
            ):
                logits = straightforward_logits(model, pixel_values.to(device), task.pairs)
            loss = weighted_loss(
                BranchLogits(*(branch.float() for branch in logits)), targets, task.pairs, params
            )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(targets)
        return total / len(task.rows)

    return timed(device, epoch)


def train_as_the_stage(task: Task, augment: bool) -> Measured:
    """One epoch of :func:`fit`."""
    model = copy.deepcopy(task.model)
    seen = torch.ones(len(task.pairs), dtype=torch.bool, device=task.device)
    data = Labelled(task.pixels, task.columns, task.pairs, seen)
    nothing = Labelled(task.pixels[:0], task.columns[:0], task.pairs, seen)
    params = task.params.model_copy(update={"augment": augment, "epochs": 1})
    normalizer = Normalizer(task.clip, task.device)

    def epoch() -> float:
        return fit(model, data, nothing, normalizer, params, task.seed).records[0].train_loss

    return timed(task.device, epoch)


def write_random_clip(folder: Path, name: str | None) -> None:
    """A CLIP of the sample's size, or of open_clip's architecture ``name``, of random weights."""
    config = MICRO_CONFIG if name is None else open_clip.get_model_config(name)
    model = open_clip.CLIP(**{**config, "quick_gelu": False})
    size = model.visual.image_size
    model.visual.preprocess_cfg = {
        "size": size,
        "mode": "RGB",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    save_clip(model, {**config, "quick_gelu": False}, folder)


def prepare(arguments: argparse.Namespace, folder: Path) -> tuple[Task, float]:
    """Images, model and parameters; and the seconds that decoding all images once takes."""
    device = resolve_device(arguments.device)
    seed_everything(arguments.seed)
    (folder / "clip").mkdir()
    write_random_clip(folder / "clip", arguments.model)
    clip = load_clip(folder / "clip", device)
    rows = list(generate_catalog(arguments.images, arguments.seed, workers=1))
    with open_shards(folder / "catalog", shard_mib=64) as shards:
        for row in rows:
            shards.write(CatalogRow(row.image_id, row.product_id, row.image, row.path))
    ids = [row.image_id for row in rows]

    start = time.perf_counter()
    pixels = decode_pixels(folder / "catalog", clip, ids, arguments.workers, folder)
    decoding = time.perf_counter() - start

    # As many pairs as asked for, whatever the images show: the loss only has to be the same.
    attributes = max(2, round(arguments.classes**0.5))
    pairs = [(f"attribute{n % attributes}", f"object{n // attributes}") for n in range(10**4)]
    pairs = pairs[: arguments.classes]
    vocabulary = Vocabulary.of(pairs, [True] * len(pairs), ["train"] * len(pairs), "the benchmark")
    shipped, _ = read_params(arguments.params, TroikaTrain)
    params = shipped.model_copy(
        update={
            "batch_size": arguments.batch,
            "precision": arguments.precision,
            "gradient_accumulation": 1,
            **WITHOUT_DROPOUT,
        }
    )
    model = Troika(clip, vocabulary, TroikaConfig.from_params(params))
    labels = torch.randint(0, len(pairs), (len(rows),))
    indices = torch.from_numpy(vocabulary.pair_indices).to(device)
    return Task(
        rows, labels, indices, pixels, clip, model, params, arguments.seed, device
    ), decoding


def compare(arguments: argparse.Namespace, task: Task, decoding: float) -> None:
    """Train every way, check that losses agree, and print rates and memory."""
    workers = arguments.workers
    ways: dict[str, Callable[[bool], Measured]] = {
        "straightforward": lambda augment: train_straightforwardly(task, augment, 0),
        f"straightforward, {workers} workers": lambda augment: train_straightforwardly(
            task, augment, workers
        ),
        "ours": lambda augment: train_as_the_stage(task, augment),
    }
    images, epochs = len(task.rows), arguments.epochs_of_a_run
    print(
        f"{arguments.model or 'micro CLIP'}, {task.params.precision}, {task.device.type}, "
        f"{torch.get_num_threads()} threads; {images} images, {len(task.pairs)} pairs, batches of "
        f"{task.params.batch_size}, best of {arguments.repeats}; decoding once takes "
        f"{decoding:.2f} s"
    )
    print(f"{'an epoch':52}{'seconds':>9}{'images/s':>10}{'ratio':>7}{'CPU s':>8}{'peak MiB':>10}")
    for augment in (False, True):
        runs: dict[str, list[Measured]] = {name: [] for name in ways}
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                runs[name].append(way(augment))
        kind = "augmented" if augment else "plain"
        best = {name: min(run.seconds for run in measured) for name, measured in runs.items()}
        shared = f"ours, decoding shared by {epochs} epochs"
        best[shared] = best["ours"] + decoding / epochs
        for name, seconds in best.items():
            measured = runs[name if name in runs else "ours"]
            print(
                f"{kind + ': ' + name:52}{seconds:>9.2f}{images / seconds:>10.1f}"
                f"{best['straightforward'] / seconds:>7.2f}"
                f"{min(run.processor for run in measured):>8.2f}"
                f"{max(run.memory for run in measured):>10.0f}",
                flush=True,
            )
        if not augment:
            losses = {name: measured[0].loss for name, measured in runs.items()}
            print("mean losses: " + ", ".join(f"{loss:.6f}" for loss in losses.values()))
            tolerance = LOSS_TOLERANCE if task.params.precision == "float32" else 0.05
            assert max(losses.values()) - min(losses.values()) < tolerance, losses


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="open_clip's name of an architecture; default: micro")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--classes", type=int, default=68, help="seen pairs; the sample has 68")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs-of-a-run", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda", "auto"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        task, decoding = prepare(arguments, Path(folder))
        compare(arguments, task, decoding)


if __name__ == "__main__":
    main()
