"""Scoring images and pairs with Troika: a straightforward loop against blocks of pairs.

The loop is the plain one of evaluation scripts: every image batch encodes the text of all pairs
anew, repeats the text features for every image, takes all pairs through the traction at once, and
joins the primitives' probabilities to the pairs in a Python loop. Like ours it runs without
gradients and keeps the scores of all images.

Ours encodes texts once, projects the patches of a batch once, and takes the pairs through the
traction in blocks, whose first query is one row for all images. Its time includes the encoding of
the texts. Both read images by the same code, whose time stands in the table apart: it is a floor
under both.

The scores must agree to 1e-4, or the benchmark fails. Peak memory is that of a process of its own,
beyond the model and the images.

    python benchmarks/troika_predict.py              # the sample's micro CLIP, random weights
    python benchmarks/troika_predict.py --block-mib 4
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import open_clip
import torch
from measuring.resources import best_time, peak_memory
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.compute.devices import resolve_device
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.troika.model.network import Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.model.traction import QUICK_GELU, CrossAttentionLayer
from compositional_prompts.troika.pair_scoring import TroikaScorer
from compositional_prompts.troika.parameters import TroikaTrain

WORLDS = ((16, 12), (60, 50))
"""Attributes and objects: UT-Zappos50K's, and an open world of some thousand pairs."""

PARAMS = Path(__file__).parents[1] / "params.yaml"
CONTEXT_LENGTH = 32
TOLERANCE = 1e-4


def micro_clip(width: int, device: torch.device) -> Clip:
    """A CLIP of the sample's sizes, of random weights."""
    model = open_clip.CLIP(
        embed_dim=width,
        vision_cfg={
            "image_size": 96,
            "patch_size": 8,
            "width": width,
            "layers": 3,
            "head_width": 32,
        },
        text_cfg={
            "context_length": CONTEXT_LENGTH,
            "width": width,
            "heads": width // 32,
            "layers": 2,
            "vocab_size": 49408,
        },
    )
    model.eval().requires_grad_(False).to(device)

    def preprocess(image: Image.Image) -> Tensor:
        raise AssertionError("images are random numbers here")

    tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    return Clip(model, preprocess, tokenizer, 96, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def random_model(attributes: int, objects: int, width: int, device: torch.device) -> Troika:
    """A Troika no part of which is neutral."""
    pairs = [(f"a{a}", f"o{o}") for a in range(attributes) for o in range(objects)]
    size = len(pairs)
    vocabulary = Vocabulary.of(pairs, [True] * size, ["train"] * size, "the benchmark")
    params, _ = read_params(PARAMS, TroikaTrain)
    model = Troika(micro_clip(width, device), vocabulary, TroikaConfig.from_params(params))
    with torch.no_grad():
        for name, tensor in model.trained_state().items():
            if tensor.is_floating_point() and "running" not in name:
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return model.eval()


def layer_on_repeated_texts(layer: CrossAttentionLayer, texts: Tensor, patches: Tensor) -> Tensor:
    """A layer of the traction, every image with its own texts, ``[batch, texts, d]``."""

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (layer.heads, -1)).transpose(1, 2)

    query, key = heads(layer.query(texts)), heads(layer.key(patches))
    weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(dim=-1)
    attended = (weights @ heads(layer.value(patches))).transpose(1, 2).flatten(2)
    texts = texts + layer.output(attended)
    hidden = layer.mlp.expand(layer.norm(texts))
    return texts + layer.mlp.contract(hidden * torch.sigmoid(QUICK_GELU * hidden))


@dataclass(frozen=True)
class Inputs:
    """What is scored, on the device."""

    model: Troika
    batches: Sequence[Tensor]
    pairs: Tensor
    block_bytes: int


@dataclass(frozen=True)
class Case:
    """A size to measure; ``world`` is how many attributes and objects."""

    world: tuple[int, int]
    images: int
    batch_size: int
    block_mib: int
    width: int

    def inputs(self, device: torch.device) -> Inputs:
        """The same ones every time."""
        torch.manual_seed(0)
        model = random_model(*self.world, self.width, device)
        pairs = torch.cartesian_prod(*(torch.arange(size) for size in self.world))
        images = torch.randn(self.images, 3, 96, 96, device=device)
        batches = images.split(self.batch_size)
        return Inputs(model, batches, pairs.to(device), self.block_mib * 2**20)


@torch.no_grad()
def by_loop(inputs: Inputs) -> Tensor:
    """Scores of all images and pairs, a batch of images after the other."""
    model, pairs = inputs.model, inputs.pairs
    every = []
    for pixel_values in inputs.batches:
        texts = model.encode_text(pairs)
        images = model.encode_image(pixel_values)
        patches = images.tokens
        logits = []
        for features, text in zip(images[:3], texts, strict=True):
            patches = model.patch_norm(patches)
            drawn = text.unsqueeze(0).expand(len(pixel_values), -1, -1)
            for layer in model.traction.layers:
                assert isinstance(layer, CrossAttentionLayer)
                drawn = layer_on_repeated_texts(layer, drawn, patches)
            drawn = F.normalize(text + model.traction.gain * drawn, dim=-1)
            scaled = drawn * model.clip.logit_scale.exp()
            logits.append(torch.einsum("bd,bkd->bk", features, scaled))
        composition, attributes, objects = logits
        attributes, objects = attributes.softmax(dim=-1), objects.softmax(dim=-1)
        config = model.config
        for column in range(len(pairs)):
            both = attributes[:, pairs[column][0]] * objects[:, pairs[column][1]]
            composition[:, column] = (
                composition[:, column] * config.composition_score_weight
                + both * config.primitives_score_weight
            )
        every.append(composition.cpu())
    return torch.cat(every)


def by_blocks(inputs: Inputs) -> Tensor:
    """The pipeline's way, with every block kept, for the comparison."""
    scorer = TroikaScorer(inputs.model, inputs.pairs, inputs.block_bytes)
    return torch.cat([scorer(pixel_values).scores().cpu() for pixel_values in inputs.batches])


@torch.inference_mode()
def read(inputs: Inputs) -> Tensor:
    """The images' features alone."""
    return torch.cat([inputs.model.encode_image(batch).composition for batch in inputs.batches])


WAYS: Mapping[str, Callable[[Inputs], Tensor]] = {
    "loop over all pairs at once": by_loop,
    "blocks of pairs": by_blocks,
}


def finish(run: Callable[[Inputs], Tensor], inputs: Inputs) -> Tensor:
    """Run to the end of what the device has to do."""
    scores = run(inputs)
    if inputs.pairs.device.type == "cuda":
        torch.cuda.synchronize(inputs.pairs.device)
    return scores


def peak_of(name: str, case: Case, device: torch.device) -> float:
    """Peak memory of a way, MiB."""
    inputs = case.inputs(device)
    with peak_memory(device) as memory:
        finish(WAYS[name], inputs)
    return memory[0]


def main() -> None:
    """Measure both ways at every size and print a table.

    Raises:
        AssertionError: they disagree.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=128, help="at the smaller world; default 128")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--block-mib", type=int, default=64, help="troika_predict.block_mib")
    parser.add_argument("--width", type=int, default=128, help="of the CLIP; default: the sample's")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    parser.add_argument("--device", choices=["cpu", "cuda", "auto"], default="auto")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    for world in WORLDS:
        images = arguments.images if math.prod(world) < 1000 else arguments.batch_size
        case = Case(world, images, arguments.batch_size, arguments.block_mib, arguments.width)
        _compare(case, device, arguments.repeats)


def _compare(case: Case, device: torch.device, repeats: int) -> None:
    inputs = case.inputs(device)
    loop_scores, block_scores = (finish(run, inputs) for run in WAYS.values())
    torch.testing.assert_close(block_scores, loop_scores, atol=TOLERANCE, rtol=0)
    assert float(loop_scores.std(dim=1).min()) > 10 * TOLERANCE
    # They take turns, so that what else the machine does meets both.
    seconds = dict.fromkeys([*WAYS, "read"], float("inf"))
    for _ in range(repeats):
        for name, run in {**WAYS, "read": read}.items():
            taken = best_time(partial(finish, run, inputs), 1)
            seconds[name] = min(seconds[name], taken)
    floor = seconds.pop("read")
    memory = {}
    for name in WAYS:
        with get_context("spawn").Pool(1) as process:
            memory[name] = process.apply(peak_of, (name, case, device))
    (loop, ours), (peak, _) = seconds.values(), memory.values()
    print(
        f"{case.images} images x {math.prod(case.world)} pairs in batches of {case.batch_size} on "
        f"{device}, blocks of {case.block_mib} MiB; the same scores to {TOLERANCE}"
    )
    print(f"{'':30}{'seconds':>9}{'images/s':>10}{'ratio':>7}{'peak MiB':>10}{'ratio':>7}")
    for name, taken in seconds.items():
        print(
            f"{name:30}{taken:>9.2f}{case.images / taken:>10.1f}{loop / taken:>7.1f}"
            f"{memory[name]:>10.0f}{peak / memory[name]:>7.1f}"
        )
    ratio = (loop - floor) / (ours - floor)
    print(f"{'reading images, in both':30}{floor:>9.2f}   without it {ratio:.1f} times as fast\n")


if __name__ == "__main__":
    main()
