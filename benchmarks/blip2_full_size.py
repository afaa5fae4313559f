"""BLIP-2 and Troika at full size on one GPU: images a second, and of the card's speed what share.

BLIP-2 is blip2-opt-2.7b's configuration (3,744,679,936 parameters) with random weights in
bfloat16, made on the device: no checkpoint is needed, and speed does not depend on what the
numbers say. Measured are

- features: vision tower and Q-Former, which the pipeline runs once an image;
- captions: beam search from cached features, every caption as long as it may be, with the steps
  replayed as CUDA graphs and without, against transformers' own batched beam search on the same
  features. The weights are those of a merged adapter's shapes;
- the report's loop: the whole model on three images a step;
- fine-tuning: a LoRA adapter of rank 16 on cached features, forward, backward and AdamW;
- the same without autocast (norms in bfloat16, the adapter's products in float32), with each of
  torch's kernels of fused attention, and with the layers compiled, as finetune.compile does;
- Troika: an epoch of `fit()` on a ViT-L-14 of random weights with UT-Zappos' 83 seen pairs, against
  a loop as the authors', both from pixels in memory.

Shares are of what a large bfloat16 matrix product reaches on this card in the same run.

Before anything is timed, the loss from cached features is compared with that of the whole model,
and, on a small float32 model, the captions of all ways with one another; Troika's two ways must
have the same mean loss. Times are medians after a warm-up, between synchronisations, on fresh
random inputs. Floating-point operations are counted by torch. Every row is printed once it is
measured; a batch that memory does not hold ends its sweep, and what has not begun after `--seconds`
is left out, which is said.

    python benchmarks/blip2_full_size.py                      # a CUDA GPU of 16 GB or more
    python benchmarks/blip2_full_size.py --micro --device cpu # only to see that the script runs
"""

from __future__ import annotations

import argparse
import gc
import platform
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import transformers
from measuring.device_steps import Measurement, Meter, TimeLimit, matmul_peak, print_head
from measuring.random_weights import draw_weights
from measuring.troika_steps import TroikaSteps
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
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
from compositional_prompts.captioner.decoding.caption_generation import NEVER, generate_tokens
from compositional_prompts.captioner.model.blip2_model import DTYPES, Captioner
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
from compositional_prompts.pipeline.section import Precision

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
PARTS = ("features", "captions", "training", "troika")
LEARNING_RATE = 5e-4
REPORT_BATCH, REPORT_IMAGES, REPORT_EPOCHS = 3, 1000, 15
WEIGHT_STD = 0.02
ATTENTION_KERNELS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)
TROIKA_STEPS = 6
TROIKA_TOLERANCE = 0.05
"""Of the mean loss of an epoch in bfloat16."""


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


def random_captioner(
    config: Blip2Config, device: torch.device, seed: int, precision: Precision = "bfloat16"
) -> Captioner:
    """A BLIP-2 of random weights, made on ``device``."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[precision])
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
    return Captioner(model=model, processor=processor, precision=precision)


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
            dtype = DTYPES[self._captioner.precision]
            return torch.randn(shape, generator=self._generator, device=device, dtype=dtype)

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


@contextmanager
def report_mode(model: Any) -> Iterator[None]:
    """All of the model in training mode, the frozen Q-Former's dropout with it, as the report."""
    model.train()
    try:
        yield
    finally:
        model.eval()


class Captioning:
    """The ways to caption a batch from its features, on one model without an adapter beside."""

    def __init__(self, captioner: Captioner, beams: int, max_new_tokens: int) -> None:
        self._captioner = captioner
        self._beams = beams
        self._max_new_tokens = max_new_tokens

    def ours(self, inputs: Inputs, *, graphs: bool) -> Tensor:
        """Token ids of the captions of a batch, none of which ends early."""
        return generate_tokens(
            self._captioner,
            inputs.queries,
            num_beams=self._beams,
            max_new_tokens=self._max_new_tokens,
            graphs=graphs,
            ending=False,
        )

    @torch.inference_mode()
    def theirs(self, inputs: Inputs) -> Tensor:
        """The same by transformers' `generate`, one call a batch."""
        model: Any = self._captioner.model
        embeds = model.language_projection(inputs.queries)
        begin = torch.tensor(self._captioner.begin_of_text, device=embeds.device)
        start = model.get_input_embeddings()(begin).expand(len(embeds), -1, -1)
        embeds = torch.cat([embeds, start], dim=1)
        tokens: Tensor = model.language_model.generate(
            inputs_embeds=embeds,
            attention_mask=embeds.new_ones(embeds.shape[:2], dtype=torch.long),
            num_beams=self._beams,
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            early_stopping=True,
            eos_token_id=NEVER,
            pad_token_id=self._captioner.padding,
        )
        return tokens

    def agreement(self, inputs: Inputs) -> tuple[float, float]:
        """Share of a batch's tokens that are transformers', with graphs and without."""
        expected = self.theirs(inputs)
        found = [self.ours(inputs, graphs=graphs) for graphs in (True, False)]
        with_graphs, without = [float((tokens == expected).float().mean()) for tokens in found]
        return with_graphs, without


def check_captions(device: torch.device, beams: int, max_new_tokens: int, seed: int) -> None:
    """On a small model in float32, where rounding decides nothing, all ways write the same.

    Raises:
        AssertionError: they do not.
    """
    captioner = random_captioner(micro_config(), device, seed, "float32")
    inputs = Drawer(captioner, tokens=8, seed=seed).draw(8)
    shares = Captioning(captioner, beams, max_new_tokens).agreement(inputs)
    if shares != (1.0, 1.0):
        raise AssertionError(f"of a small model's tokens only {shares} are transformers'")


class Steps:
    """The steps of training that are compared, on one model and one adapter."""

    def __init__(self, captioner: Captioner) -> None:
        self._captioner = captioner
        add_adapter(captioner, LORA)
        self._trained = [p for p in captioner.model.parameters() if p.requires_grad]
        fused = captioner.device.type == "cuda"
        self._optimizer = torch.optim.AdamW(self._trained, lr=LEARNING_RATE, fused=fused)
        self._module = CaptionLoss(captioner, label_smoothing=0.0)
        # Autocast is off where the precision is that of no autocast.
        self._plain = CaptionLoss(replace(captioner, precision="float32"), label_smoothing=0.0)

    def _step(self, loss: Tensor) -> None:
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    @staticmethod
    def _loss(module: CaptionLoss, source: Tensor, scored: ScoredTokens) -> Tensor:
        total, _ = module(source, scored.ids, scored.mask, scored.scored, scored.labels)
        return total / len(scored.labels)

    def cached(self, inputs: Inputs, *, autocast: bool = True) -> None:
        """A step of fine-tuning on cached features, as the pipeline takes it."""
        module = (self._module if autocast else self._plain).train()
        self._step(self._loss(module, inputs.queries, inputs.scored))
        module.eval()

    def report(self, inputs: Inputs) -> None:
        """A step on photos through the whole model, with logits for all text."""
        captioner = self._captioner
        with report_mode(captioner.model), captioner.autocast():
            queries = query_features(captioner.model, inputs.pixel_values)
            logits, labels = caption_logits(captioner.model, queries, inputs.tokens)
            loss = caption_loss(logits, labels)
        self._step(loss)

    def check(self, inputs: Inputs) -> None:
        """The cache changes no loss, and a step moves the adapter.

        Raises:
            AssertionError: it does, or it does not.
        """
        module = self._module.eval()
        with torch.no_grad():
            whole = self._loss(module, inputs.pixel_values, inputs.scored)
            queries = features(self._captioner, inputs).clone()
            cached = self._loss(module, queries, inputs.scored)
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


def features(captioner: Captioner, inputs: Inputs, *, autocast: bool = True) -> Tensor:
    """Query features of a batch, as the pipeline computes them."""
    if not autocast:
        captioner = replace(captioner, precision="float32")
    with torch.inference_mode(), captioner.autocast():
        return query_features(captioner.model, inputs.pixel_values)


def best(measurements: Sequence[Measurement]) -> Measurement:
    """The fastest."""
    return max(measurements, key=lambda measurement: measurement.rate)


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


def measure_features(
    meter: Meter[Inputs], captioner: Captioner, batches: Sequence[int]
) -> list[Measurement]:
    """Print the rows of features; return those of the pipeline's way."""
    run = partial(features, captioner)
    flop = meter.count(run)
    rows = meter.sweep("features", batches, run, flop)
    if rows:
        fastest = [best(rows).batch]
        plain = partial(features, captioner, autocast=False)
        meter.sweep("features, without autocast", fastest, plain, flop)
        measure_attention(meter, "features", fastest, run, flop)
    return rows


def measure_attention(
    meter: Meter[Inputs], name: str, batches: Sequence[int], run: Any, flop: float
) -> None:
    """Print a row for each kernel of fused attention that the card has for these shapes."""
    if meter.device.type != "cuda":
        return
    for kernel in ATTENTION_KERNELS:
        title = f"{name}, {kernel.name.lower()}"
        try:
            with sdpa_kernel(kernel):
                meter.sweep(title, batches, run, flop)
        except RuntimeError as error:
            print(f"{title}: not for these shapes ({str(error).splitlines()[0]})", flush=True)


def measure_captions(
    meter: Meter[Inputs], captioner: Captioner, batches: Sequence[int], beams: int, tokens: int
) -> None:
    """Print the rows of captions, ours and transformers'."""
    ways = Captioning(captioner, beams, tokens)
    told, replayed = partial(ways.ours, graphs=False), partial(ways.ours, graphs=True)
    flop = meter.count(told)
    title = f"captions, {beams} beams, {tokens} tokens"
    ours = meter.sweep(f"{title}, ours", batches, replayed, flop)
    theirs = meter.sweep(f"{title}, transformers", batches, ways.theirs, flop)
    if meter.device.type == "cuda":
        meter.sweep(f"{title}, without graphs", batches[-1:], told, flop)
    for row, peer in zip(ours, theirs, strict=False):
        print(f"captions, {row.batch} at a time: {row.rate / peer.rate:.2f} times transformers'")
    if ours and theirs:
        print(f"captions, each at its best: {best(ours).rate / best(theirs).rate:.2f} times")
    if meter.limit.allows("agreement"):
        shares = ways.agreement(meter.draw(8))
        print(
            "tokens that are transformers', in bfloat16, whose rounding decides between "
            f"captions alike: {shares[0]:.1%} with graphs, {shares[1]:.1%} without",
            flush=True,
        )


def measure_training(
    meter: Meter[Inputs], captioner: Captioner, batches: Sequence[int], feature_rows: Any
) -> None:
    """Print the rows of fine-tuning."""
    steps = Steps(captioner)
    steps.check(meter.draw(2))
    flop = meter.count(steps.cached)
    report = meter.sweep(
        "whole model (report's loop)", [REPORT_BATCH], steps.report, meter.count(steps.report)
    )
    cached = meter.sweep("fine-tuning, cached", batches, steps.cached, flop)
    plain = partial(steps.cached, autocast=False)
    meter.sweep("fine-tuning, cached, without autocast", batches, plain, flop)
    if cached:
        measure_attention(meter, "fine-tuning, cached", [best(cached).batch], steps.cached, flop)
    if feature_rows and report and cached:
        print_ratio(best(feature_rows), report[0], best(cached))
    if meter.limit.allows("fine-tuning, cached, compiled"):
        steps.compile()
        meter.sweep("fine-tuning, cached, compiled", batches, steps.cached, flop)
        meter.sweep("fine-tuning, compiled, without autocast", batches[-1:], plain, flop)


def measure_troika(
    meter: Meter[Inputs], architecture: str | None, batches: Sequence[int], seed: int
) -> None:
    """Print the rows of Troika's training.

    Raises:
        AssertionError: the two ways have different losses.
    """
    if not meter.limit.allows("Troika"):
        return
    steps = TroikaSteps(architecture, meter.device, seed)
    epochs = replace(meter, draw=steps.draw)
    photos = steps.draw(4 * batches[-1])
    losses = steps.theirs(photos, batches[-1]), steps.ours(photos, batches[-1])
    print(f"Troika, mean loss of the first epoch: {losses[0]:.4f} the loop's, {losses[1]:.4f} ours")
    if abs(losses[0] - losses[1]) > TROIKA_TOLERANCE:
        raise AssertionError(f"Troika's two ways have the losses {losses}")
    for batch in batches:
        images = (TROIKA_STEPS if architecture else 2) * batch
        if not epochs.limit.allows(f"Troika, batches of {batch}"):
            return
        rates = []
        for name, run in (("the authors' loop", steps.theirs), ("ours", steps.ours)):
            epoch = partial(run, batch=batch)
            flop = epochs.count(epoch, images)
            title = f"Troika, {architecture or 'micro'}, batches of {batch}, {name}"
            rates += [row.rate for row in epochs.sweep(title, [images], epoch, flop)]
        if len(rates) == 2:
            print(
                f"Troika, batches of {batch}: {rates[1] / rates[0]:.2f} times the loop", flush=True
            )


def measure_blip2(meter: Meter, arguments: argparse.Namespace) -> None:
    """Measure what is asked for of BLIP-2; its memory is free afterwards."""
    config = micro_config() if arguments.micro else full_config()
    captioner = random_captioner(config, meter.device, arguments.seed)
    print(f"parameters: {captioner.total_parameters:,}; {meter.limit.spent:.0f} s so far")
    meter = replace(meter, draw=Drawer(captioner, arguments.tokens, arguments.seed + 1).draw)
    feature_rows = []
    if "features" in arguments.parts:
        feature_rows = measure_features(meter, captioner, arguments.feature_batches)
    if "captions" in arguments.parts:
        batches = arguments.caption_batches
        measure_captions(meter, captioner, batches, arguments.beams, arguments.max_new_tokens)
    if "training" in arguments.parts:
        measure_training(meter, captioner, arguments.train_batches, feature_rows)
    del captioner, meter
    torch.compiler.reset()
    gc.collect()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"])
    parser.add_argument("--micro", action="store_true", help="tiny models and batches")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS, help="all by default")
    parser.add_argument("--feature-batches", type=int, nargs="+", default=[16, 64, 128, 256])
    parser.add_argument("--train-batches", type=int, nargs="+", default=[3, 16, 32, 64, 128])
    parser.add_argument("--caption-batches", type=int, nargs="+", default=[1, 16, 64, 128])
    parser.add_argument("--troika-batches", type=int, nargs="+", default=[128, 16])
    parser.add_argument("--tokens", type=int, default=30, help="of a caption, with begin and end")
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=7, help="most; slow steps have fewer")
    parser.add_argument("--matmul", type=int, help="side of the matrix of the peak")
    parser.add_argument("--seconds", type=float, default=420, help="after which nothing begins")
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
    limit = TimeLimit(arguments.seconds)
    device = torch.device(arguments.device or "cuda")
    if arguments.micro:
        arguments.repeats = 3
        for name in ("feature", "train", "caption", "troika"):
            setattr(arguments, f"{name}_batches", [4])
    # It warns at every call that captions without an end have none.
    transformers.logging.set_verbosity_error()
    print(describe(device), flush=True)
    check_captions(device, arguments.beams, arguments.max_new_tokens, arguments.seed)
    print("captions of a small float32 model: the same all ways", flush=True)
    side = arguments.matmul or (8192 if device.type == "cuda" else 256)
    peak = matmul_peak(side, device, arguments.repeats)
    print(f"peak: {peak / 1e12:.4g} TFLOP/s, bfloat16 product of {side} squared", flush=True)

    print_head()
    meter = Meter(_nothing, device, arguments.repeats, peak, limit)
    if set(arguments.parts) != {"troika"}:
        measure_blip2(meter, arguments)
    if "troika" not in arguments.parts:
        return
    architecture = None if arguments.micro else "ViT-L-14"
    measure_troika(meter, architecture, arguments.troika_batches, arguments.seed)
    print(f"\n{limit.spent:.0f} s in all")


def _nothing(images: int) -> Inputs:
    raise AssertionError("no batch of a model that is gone")


if __name__ == "__main__":
    main()
