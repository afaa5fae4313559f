"""Fine-tuning and captioning with BLIP-2: cached features and batches, against the report's loops.

Training. The report's loop decodes the images of a step, runs the whole model on them and trains
a LoRA adapter, three images a step. The pipeline reads the Q-Former's output, computed once for
every image, and runs the language model alone on larger batches. What the cache costs stands in
the table, apart.

Captioning. The report captions one image at a time with five beams, from the photo on. The
pipeline captions a batch, from the cache. Both write the same captions, which is checked.

The default model has random weights, so its captions never end of themselves and take
`--max-new-tokens` steps each, and it is micro: the larger the frozen half is beside the language
model, the more the cache saves. `--blip2 models/blip2` measures the pipeline's own model.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
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

from compositional_prompts.captioner.features import FeatureStore, write_features
from compositional_prompts.captioner.finetuning import add_adapter
from compositional_prompts.captioner.forward import caption_logits, caption_loss, query_features
from compositional_prompts.captioner.generation import caption_images, generate_captions
from compositional_prompts.captioner.loading import Captioner, load_captioner
from compositional_prompts.captioner.pretraining import train_tokenizer
from compositional_prompts.captioner.tokens import CaptionTokens, tokenize_captions
from compositional_prompts.catalog.datasets.sample.generation import generate_catalog
from compositional_prompts.params import Lora

CPU = torch.device("cpu")
LORA = Lora(r=16, alpha=32, dropout=0.1, target_modules=["q_proj", "v_proj"], bias="none")
LEARNING_RATE = 5e-4
MAX_TOKENS = 96
REPORT_BATCH = 3
BEAMS = 5
IMAGE_SIZE = 96
QUERIES = 16


def random_captioner(captions: Sequence[str], width: int, layers: int, seed: int) -> Captioner:
    """A micro BLIP-2 with OPT, of random weights.

    Args:
        captions: what its tokenizer is trained on.
        width: of vision tower, Q-Former and language model; a multiple of 32.
        layers: of each of the three.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    tokenizer: Any = train_tokenizer(captions)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    make_processor: Any = Blip2Processor
    processor = make_processor(BlipImageProcessor(size=size), tokenizer, num_query_tokens=QUERIES)
    shape: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
    }
    model: Any = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=Blip2VisionConfig(
                **shape, intermediate_size=4 * width, image_size=IMAGE_SIZE, patch_size=8
            ),
            qformer_config=Blip2QFormerConfig(
                **shape,
                vocab_size=len(tokenizer),
                intermediate_size=2 * width,
                encoder_hidden_size=width,
            ),
            text_config=OPTConfig(
                **shape,
                vocab_size=len(tokenizer),
                word_embed_proj_dim=width,
                ffn_dim=4 * width,
                max_position_embeddings=QUERIES + MAX_TOKENS + 2,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            num_query_tokens=QUERIES,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    # The default initialisation gives nearly uniform probabilities: which beam wins would then be
    # a matter of rounding.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.3)
    text_config: Any = model.config.text_config
    model.generation_config = GenerationConfig.from_model_config(text_config)
    model.eval().requires_grad_(False)
    return Captioner(model=model, processor=processor)


def pixels(captioner: Captioner, encoded: Sequence[bytes]) -> Tensor:
    """Decoded and preprocessed images, ``[n, 3, H, W]``."""
    images = (Image.open(io.BytesIO(image)).convert("RGB") for image in encoded)
    return torch.stack([captioner.preprocess(image) for image in images])


def compute_cache(
    captioner: Captioner, image_ids: Sequence[str], encoded: Sequence[bytes], batch: int, out: Path
) -> None:
    """The frozen half for every image, into ``out``."""

    def batches() -> Iterator[tuple[list[str], NDArray[np.float16]]]:
        for start in range(0, len(encoded), batch):
            with torch.inference_mode():
                queries = query_features(
                    captioner.model, pixels(captioner, encoded[start : start + batch])
                )
            yield list(image_ids[start : start + batch]), queries.to(torch.float16).numpy()

    write_features(batches(), out)


def train_epoch(
    captioner: Captioner,
    queries_of: Callable[[Sequence[int]], Tensor],
    tokens: CaptionTokens,
    batch_size: int,
) -> None:
    """One epoch of AdamW on what requires a gradient."""
    trained = [p for p in captioner.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    order: Any = torch.randperm(len(tokens))
    for rows in order.split(batch_size):
        queries = queries_of(rows.tolist())
        loss: Any = caption_loss(*caption_logits(captioner.model, queries, tokens.select(rows)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def seconds_of(run: Callable[[], object]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def print_table(title: str, rows: Sequence[tuple[str, int, float]], slowest: float) -> None:
    """Print what, images and seconds, with the rate's ratio to ``slowest`` (images/s)."""
    print(f"{title}\n{'':44}{'images':>8}{'seconds':>10}{'images/s':>10}{'ratio':>8}")
    for name, images, seconds in rows:
        rate = images / seconds
        print(f"{name:44}{images:>8}{seconds:>10.2f}{rate:>10.1f}{rate / slowest:>8.1f}")
    print()


def compare_training(
    captioner: Captioner,
    store: FeatureStore,
    image_ids: Sequence[str],
    encoded: Sequence[bytes],
    captions: Sequence[str],
    batch_size: int,
    cache_seconds: float,
) -> None:
    """Time an epoch either way, after checking that both see the same loss."""
    model: Any = captioner.model
    tokens = tokenize_captions(captioner, captions, MAX_TOKENS)

    def from_photos(rows: Sequence[int]) -> Tensor:
        return query_features(model, pixels(captioner, [encoded[row] for row in rows]))

    def from_cache(rows: Sequence[int]) -> Tensor:
        return store.read([image_ids[row] for row in rows])

    with torch.inference_mode():
        first = torch.arange(min(REPORT_BATCH, len(tokens)))
        losses = [
            caption_loss(*caption_logits(model, queries_of(first.tolist()), tokens.select(first)))
            for queries_of in (from_photos, from_cache)
        ]
    # The cache is half precision: losses agree to its digits.
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-2, atol=1e-3)

    add_adapter(model, LORA)
    model.train()
    report = seconds_of(lambda: train_epoch(captioner, from_photos, tokens, REPORT_BATCH))
    model.eval()
    model.language_model.train()
    small = seconds_of(lambda: train_epoch(captioner, from_cache, tokens, REPORT_BATCH))
    ours = seconds_of(lambda: train_epoch(captioner, from_cache, tokens, batch_size))
    model.eval()
    images = len(tokens)
    print_table(
        "Fine-tuning with LoRA, an epoch",
        [
            (f"whole model, {REPORT_BATCH} a step (report)", images, report),
            (f"cached features, {REPORT_BATCH} a step", images, small),
            (f"cached features, {batch_size} a step", images, ours),
            ("making the cache, once for all epochs", images, cache_seconds),
        ],
        images / report,
    )


def compare_captioning(
    captioner: Captioner,
    store: FeatureStore,
    image_ids: Sequence[str],
    encoded: Sequence[bytes],
    batch_size: int,
    max_new_tokens: int,
) -> None:
    """Time captioning either way and check that the captions are the same.

    Raises:
        AssertionError: a caption differs.
    """
    one_by_one: list[str] = []
    batched: list[str] = []

    def caption_photos() -> None:
        for image in encoded:
            with torch.inference_mode():
                queries = query_features(captioner.model, pixels(captioner, [image]))
            # Rounded as the cache is, or the two would not caption the same numbers.
            one_by_one.extend(
                generate_captions(
                    captioner,
                    queries.to(torch.float16).float(),
                    num_beams=BEAMS,
                    max_new_tokens=max_new_tokens,
                )
            )

    def caption_cache() -> None:
        batched.extend(
            caption_images(
                captioner,
                store,
                image_ids,
                batch_size=batch_size,
                num_beams=BEAMS,
                max_new_tokens=max_new_tokens,
            )
        )

    report = seconds_of(caption_photos)
    ours = seconds_of(caption_cache)
    different = [pair for pair in zip(one_by_one, batched, strict=True) if pair[0] != pair[1]]
    if different:
        raise AssertionError(f"{len(different)} captions differ; the first: {different[0]}")
    images = len(encoded)
    print_table(
        f"Captioning with {BEAMS} beams; the same captions",
        [
            ("from the photo, one image at a time (report)", images, report),
            (f"from the cache, {batch_size} at a time", images, ours),
        ],
        images / report,
    )


def main() -> None:
    """Measure both and print a table each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=192, help="images to train on")
    parser.add_argument(
        "--caption-images", type=int, default=48, help="how many of them to caption"
    )
    parser.add_argument("--train-batch", type=int, default=32)
    parser.add_argument("--caption-batch", type=int, default=48)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--width", type=int, default=128, help="of the random model")
    parser.add_argument("--layers", type=int, default=3, help="of each part of the random model")
    parser.add_argument("--blip2", type=Path, help="folder of another BLIP-2 to measure with")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    photos = list(generate_catalog(arguments.images, arguments.seed, workers=1))
    image_ids = [photo.image_id for photo in photos]
    encoded = [photo.image for photo in photos]
    captions = [
        f"A photo of {photo.attribute}_{photo.object} with {photo.color} color and "
        f"{photo.material} material"
        for photo in photos
    ]
    if arguments.blip2 is None:
        captioner = random_captioner(captions, arguments.width, arguments.layers, arguments.seed)
    else:
        captioner = load_captioner(arguments.blip2, CPU)
    torch.manual_seed(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "features"
        # The first pass over a model is slower than the rest: it is not counted.
        compute_cache(captioner, image_ids[:2], encoded[:2], 2, cache)
        cache_seconds = seconds_of(
            lambda: compute_cache(captioner, image_ids, encoded, arguments.train_batch, cache)
        )
        store = FeatureStore(cache)
        some = slice(arguments.caption_images)
        compare_captioning(
            captioner,
            store,
            image_ids[some],
            encoded[some],
            arguments.caption_batch,
            arguments.max_new_tokens,
        )
        compare_training(
            captioner, store, image_ids, encoded, captions, arguments.train_batch, cache_seconds
        )


if __name__ == "__main__":
    main()
