"""BLIP-2 at the report's size on one GPU: features, fine-tuning and captions a second.

The model is blip2-opt-2.7b's configuration (3,744,679,936 parameters) with random weights in
bfloat16, made on the device: no checkpoint is needed, and speed does not depend on what the
numbers say. Measured are

- features: vision tower and Q-Former, which the pipeline runs once an image;
- fine-tuning: a LoRA adapter of rank 16 on cached features, forward, backward and AdamW, with its
  share of what a large bfloat16 matrix product reaches on this card in the same run;
- the report's loop: the whole model on three images a step;
- captions: beam search from cached features, every caption as long as it may be.

Before anything is timed, the loss from cached features is compared with that of the whole model.
Times are medians after a warm-up, between synchronisations, on fresh random inputs that lie on
the device. Floating-point operations are counted by torch in one step of each kind. A batch that
memory does not hold ends its sweep.

    python benchmarks/blip2_full_size.py                      # a CUDA GPU of 16 GB or more
    python benchmarks/blip2_full_size.py --micro --device cpu # only to see that the script runs
"""

from __future__ import annotations

import argparse
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from measuring.random_weights import draw_weights
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessor,
    GenerationConfig,
    OPTConfig,
)

from compositional_prompts.captioner.blip2_pretraining import train_tokenizer
from compositional_prompts.captioner.decoding.caption_generation import generate_tokens
from compositional_prompts.captioner.model.blip2_model import Captioner
from compositional_prompts.captioner.model.caption_tokens import CaptionTokens
from compositional_prompts.captioner.model.forward import (
    ScoredTokens,
    caption_logits,
    caption_loss,
    query_features,
    score_places,
)
from compositional_prompts.captioner.model.lora import add_adapter
from compositional_prompts.captioner.parameters import Lora
from compositional_prompts.captioner.training.caption_batches import CaptionLoss

LORA = Lora(
    r=16,
    alpha=32,
    dropout=0.1,
    target_modules=None,
    bias="none",
    use_dora=False,
    use_rslora=False,
    rank_pattern=[],
    alpha_pattern=[],
)
LEARNING_RATE = 5e-4
REPORT_BATCH, REPORT_IMAGES, REPORT_EPOCHS = 3, 1000, 15
WARM_UP = 3
WEIGHT_STD = 0.02


def full_config() -> Blip2Config:
    """The configuration of Salesforce/blip2-opt-2.7b."""
    return Blip2Config(
        text_config=OPTConfig(
            vocab_size=50272,
            hidden_size=2560,
            word_embed_proj_dim=2560,
            ffn_dim=10240,
            num_hidden_layers=32,
            num_attention_heads=32,
            max_position_embeddings=2048,
        ),
        image_token_index=50265,
    )


def micro_config() -> Blip2Config:
    """As :func:`full_config`, but of a size for a look at the script."""
    shape: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Blip2Config(
        vision_config=Blip2VisionConfig(
            **shape, intermediate_size=128, image_size=32, patch_size=8
        ),
        qformer_config=Blip2QFormerConfig(**shape, intermediate_size=128),
        text_config=OPTConfig(
            **shape,
            vocab_size=1000,
            word_embed_proj_dim=64,
            ffn_dim=128,
            max_position_embeddings=256,
        ),
        num_query_tokens=8,
        image_token_index=999,
    )


def random_captioner(config: Blip2Config, device: torch.device, seed: int) -> Captioner:
    """A BLIP-2 of random bfloat16 weights, made on ``device``."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            model: Any = Blip2ForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    draw_weights(model, WEIGHT_STD)
    text_config: Any = config.text_config
    model.generation_config = GenerationConfig.from_model_config(text_config)
    model.eval().requires_grad_(False)
    make_processor: Any = Blip2Processor
    # Token ids are not decoded, so that a tokenizer of a few words does.
    tokenizer = train_tokenizer(["a photo of white canvas sandals"])
    processor = make_processor(BlipImageProcessor(), tokenizer)
    return Captioner(model=model, processor=processor, precision="bfloat16")


@dataclass(frozen=True)
class Inputs:
    """A batch of random inputs on the device."""

    pixel_values: Tensor
    queries: Tensor
    tokens: CaptionTokens
    scored: ScoredTokens


class Drawer:
    """Draws random batches for a model."""

    def __init__(self, captioner: Captioner, tokens: int, seed: int) -> None:
        self._captioner = captioner
        self._tokens = tokens
        self._generator = torch.Generator(captioner.device).manual_seed(seed)

    def draw(self, images: int) -> Inputs:
        """A fresh batch; all captions have the same number of tokens, begin and end included."""
        config: Any = self._captioner.model.config
        device = self._captioner.device
        size = config.vision_config.image_size

        def normal(*shape: int) -> Tensor:
            return torch.randn(
                shape, generator=self._generator, device=device, dtype=torch.bfloat16
            )

        ids = torch.randint(
            4,  # above the special tokens
            config.text_config.vocab_size,
            (images, self._tokens),
            generator=self._generator,
            device=device,
        )
        ids[:, 0] = self._captioner.begin_of_text[0]
        ids[:, -1] = self._captioner.end_of_caption
        tokens = CaptionTokens(ids, torch.ones_like(ids))
        width = config.qformer_config.hidden_size
        return Inputs(
            pixel_values=normal(images, 3, size, size),
            queries=normal(images, config.num_query_tokens, width),
            tokens=tokens,
            scored=score_places(self._captioner.model, tokens),
        )


@dataclass(frozen=True)
class Measurement:
    """What one kind of step took.

    Attributes:
        name: what was measured.
        batch: images a step.
        seconds: of a step, the median.
        spread: from the fastest to the slowest step, relative to the median.
        flop: floating-point operations an image.
        peak_bytes: most that torch had allocated; None on the CPU.
    """

    name: str
    batch: int
    seconds: float
    spread: float
    flop: float
    peak_bytes: int | None

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.batch / self.seconds


def synchronise(device: torch.device) -> None:
    """Wait for what was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one run, from an idle device to an idle device."""
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Meter:
    """Measures steps of a model on random batches."""

    drawer: Drawer
    device: torch.device
    repeats: int

    def count(self, run: Callable[[Inputs], object]) -> float:
        """Floating-point operations an image; captions are all of one length, so that they do
        not depend on the batch.
        """
        with FlopCounterMode(display=False) as counter:
            run(self.drawer.draw(2))
        return counter.get_total_flops() / 2

    def measure(
        self, name: str, batch: int, run: Callable[[Inputs], object], flop: float
    ) -> Measurement:
        """Time ``run`` on fresh batches, after a warm-up."""
        for _ in range(WARM_UP):
            run(self.drawer.draw(batch))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        times = []
        for _ in range(self.repeats):
            inputs = self.drawer.draw(batch)
            times.append(timed(lambda: run(inputs), self.device))  # noqa: B023
        seconds = statistics.median(times)
        cuda = self.device.type == "cuda"
        return Measurement(
            name=name,
            batch=batch,
            seconds=seconds,
            spread=(max(times) - min(times)) / seconds,
            flop=flop,
            peak_bytes=torch.cuda.max_memory_allocated(self.device) if cuda else None,
        )

    def sweep(
        self, name: str, batches: Iterable[int], run: Callable[[Inputs], object], flop: float
    ) -> list[Measurement]:
        """Measure growing batches until memory does not hold one."""
        measurements = []
        for batch in batches:
            try:
                measurements.append(self.measure(name, batch, run, flop))
            except torch.OutOfMemoryError:
                print(f"{name}: {batch} images do not fit into memory", flush=True)
                break
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return measurements


def matmul_peak(size: int, device: torch.device, repeats: int) -> float:
    """Operations a second of a bfloat16 matrix product ``[size, size] x [size, size]``."""
    pairs = [torch.randn(2, size, size, device=device, dtype=torch.bfloat16) for _ in range(3)]
    for pair in pairs:
        torch.mm(*pair)
    # Several a measurement, each on other numbers, so that the start of one hides behind another.
    rounds = 8

    def run() -> None:
        for number in range(rounds):
            torch.mm(*pairs[number % len(pairs)])

    return rounds * 2 * size**3 / statistics.median(timed(run, device) for _ in range(repeats))


@contextmanager
def report_mode(model: Any) -> Iterator[None]:
    """All of the model in training mode, the frozen Q-Former's dropout with it, as the report."""
    model.train()
    try:
        yield
    finally:
        model.eval()


class Steps:
    """The steps that are compared, on one model and one adapter."""

    def __init__(self, captioner: Captioner, beams: int, max_new_tokens: int) -> None:
        self._captioner = captioner
        self._beams = beams
        self._max_new_tokens = max_new_tokens
        add_adapter(captioner, LORA)
        self._trained = [p for p in captioner.model.parameters() if p.requires_grad]
        fused = captioner.device.type == "cuda"
        self._optimizer = torch.optim.AdamW(self._trained, lr=LEARNING_RATE, fused=fused)
        self._module = CaptionLoss(captioner, label_smoothing=0.0)

    def features(self, inputs: Inputs) -> Tensor:
        """Query features of a batch, as the pipeline computes them."""
        with torch.inference_mode(), self._captioner.autocast():
            return query_features(self._captioner.model, inputs.pixel_values)

    def _step(self, loss: Tensor) -> None:
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _loss(self, source: Tensor, scored: ScoredTokens) -> Tensor:
        total, _ = self._module(source, scored.ids, scored.mask, scored.scored, scored.labels)
        return total / len(scored.labels)

    def cached(self, inputs: Inputs) -> None:
        """A step of fine-tuning on cached features, as the pipeline takes it."""
        self._module.train()
        self._step(self._loss(inputs.queries, inputs.scored))
        self._module.eval()

    def report(self, inputs: Inputs) -> None:
        """A step on photos through the whole model, with logits for all text."""
        captioner = self._captioner
        with report_mode(captioner.model), captioner.autocast():
            queries = query_features(captioner.model, inputs.pixel_values)
            logits, labels = caption_logits(captioner.model, queries, inputs.tokens)
            loss = caption_loss(logits, labels)
        self._step(loss)

    def captions(self, inputs: Inputs) -> Tensor:
        """Token ids of the captions of a batch, none of which ends early."""
        return generate_tokens(
            self._captioner,
            inputs.queries,
            num_beams=self._beams,
            max_new_tokens=self._max_new_tokens,
            ending=False,
        )

    def check(self, inputs: Inputs) -> None:
        """The cache changes no loss, and a step moves the adapter.

        Raises:
            AssertionError: it does, or it does not.
        """
        self._module.eval()
        with torch.no_grad():
            whole = self._loss(inputs.pixel_values, inputs.scored)
            cached = self._loss(self.features(inputs).clone(), inputs.scored)
        torch.testing.assert_close(cached, whole, rtol=1e-3, atol=0)
        before = [parameter.detach().clone() for parameter in self._trained]
        self.cached(inputs)
        moved = [not torch.equal(*pair) for pair in zip(before, self._trained, strict=True)]
        if not any(moved):
            raise AssertionError("a step left the adapter as it was")

    def compile(self) -> None:
        """Compile the language model's layers, as finetune.compile does."""
        language_model: Any = self._captioner.model.language_model
        for layer in language_model.model.decoder.layers:
            layer.compile(dynamic=True)


def best(measurements: Sequence[Measurement]) -> Measurement:
    """The fastest."""
    return max(measurements, key=lambda measurement: measurement.rate)


def print_table(measurements: Sequence[Measurement], peak: float) -> None:
    """Print a row a measurement; the share is of ``peak``, operations a second."""
    print(
        f"\n{'':40}{'batch':>6}{'images/s':>10}{'spread':>8}{'GFLOP/image':>13}{'TFLOP/s':>9}"
        f"{'of peak':>9}{'peak GiB':>10}"
    )
    for row in measurements:
        speed = row.flop * row.rate
        memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.1f}"
        print(
            f"{row.name:40}{row.batch:>6}{row.rate:>10.1f}{row.spread:>8.1%}{row.flop / 1e9:>13.4g}"
            f"{speed / 1e12:>9.3g}{speed / peak:>9.1%}{memory:>10}",
            flush=True,
        )


def print_ratio(features: Measurement, report: Measurement, cached: Measurement) -> None:
    """Print what the cache gives for the report's training."""
    images = REPORT_EPOCHS * REPORT_IMAGES
    seconds = REPORT_IMAGES / features.rate + images / cached.rate
    print(
        f"\ncached, {cached.batch} a step, against the report's loop: "
        f"{cached.rate / report.rate:.1f} times as many images a second\n"
        f"{REPORT_EPOCHS} epochs over {REPORT_IMAGES:,} images: {seconds:.1f} s with features "
        f"once, {images / report.rate:.1f} s by the report's loop"
    )


def describe(device: torch.device) -> str:
    """The device, the versions and the command, to stand beside the figures."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return (
        f"device: {device.type} {name}; torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}\n"
        f"command: python {shlex.join(sys.argv)}"
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"])
    parser.add_argument("--micro", action="store_true", help="a tiny model")
    parser.add_argument("--feature-batches", type=int, nargs="+", default=[16, 64, 128, 256])
    parser.add_argument("--train-batches", type=int, nargs="+", default=[3, 16, 32, 64, 128])
    parser.add_argument("--caption-batches", type=int, nargs="+", default=[1, 16, 64, 128])
    parser.add_argument("--tokens", type=int, default=30, help="of a caption, with begin and end")
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--matmul", type=int, default=8192, help="side of the matrix of the peak")
    parser.add_argument("--compile", action="store_true", help="as finetune.compile")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.micro:
        parser.error("--device cpu is for --micro only: the full size wants a GPU")
    if arguments.device != "cpu" and not torch.cuda.is_available():
        message = "the full size needs a CUDA GPU, and torch sees none; see --micro --device cpu"
        if arguments.device == "cuda":
            parser.error(message)
        print(f"Not measured: {message}")
        return
    device = torch.device(arguments.device or "cuda")
    captioner = random_captioner(
        micro_config() if arguments.micro else full_config(), device, arguments.seed
    )
    print(describe(device))
    print(f"parameters: {captioner.total_parameters:,}")
    drawer = Drawer(captioner, arguments.tokens, arguments.seed + 1)
    steps = Steps(captioner, arguments.beams, arguments.max_new_tokens)
    steps.check(drawer.draw(2))
    peak = matmul_peak(arguments.matmul, device, arguments.repeats)
    print(f"peak: {peak / 1e12:.4g} TFLOP/s, bfloat16 product of {arguments.matmul} squared")

    meter = Meter(drawer, device, arguments.repeats)
    flop_cached = meter.count(steps.cached)
    features = meter.sweep(
        "features", arguments.feature_batches, steps.features, meter.count(steps.features)
    )
    captions = meter.sweep(
        f"captions, {arguments.beams} beams, {arguments.max_new_tokens} tokens",
        arguments.caption_batches,
        steps.captions,
        meter.count(steps.captions),
    )
    report = meter.sweep(
        "whole model (report's loop)", [REPORT_BATCH], steps.report, meter.count(steps.report)
    )
    cached = meter.sweep("fine-tuning, cached", arguments.train_batches, steps.cached, flop_cached)
    if arguments.compile:
        steps.compile()
        cached += meter.sweep(
            "fine-tuning, cached, compiled", arguments.train_batches, steps.cached, flop_cached
        )
    print_table([*features, *report, *cached, *captions], peak)
    if features and report and cached:
        print_ratio(best(features), report[0], best(cached))


if __name__ == "__main__":
    main()
