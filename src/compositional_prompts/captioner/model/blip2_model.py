"""BLIP-2 from a folder in transformers' layout, at the precision that a stage asks for.

Whatever differs between checkpoints is settled here, once: the language model's family, sizes that
an older configuration leaves out, an image token that the tokenizer does not have.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    BitsAndBytesConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
)
from transformers.utils.logging import disable_progress_bar

from compositional_prompts.captioner.model.weight_files import tensor_shape, weight_files
from compositional_prompts.compute.precision import DTYPES, autocast
from compositional_prompts.files.outputs import require_outputs
from compositional_prompts.files.tensors.finite_numbers import require_finite_weights
from compositional_prompts.pipeline.section import QUANTIZED, Precision

IMAGE_TOKEN = "<image>"
"""What stands in a text for one query of the image, as transformers' processor writes it."""

LORA_TARGETS = {"opt": ("q_proj", "v_proj"), "t5": ("q", "v")}
"""The attention's query and value projections, which LoRA adapts, by language model."""

Half = Literal["whole", "frozen", "language"]
"""Both halves; or vision tower and Q-Former; or projection and language model."""

DROPPED: dict[Half, tuple[str, ...]] = {
    "whole": (),
    "frozen": ("language_projection", "language_model"),
    "language": ("vision_model", "qformer"),
}
"""The modules that a half lacks."""


class _HalfOfBlip2(Blip2ForConditionalGeneration):
    """BLIP-2 without the half that is not asked for, whose weights are then not even read.

    The query tokens, some thousand numbers, stay with either half.
    """

    def __init__(self, config: Blip2Config, half: Half) -> None:
        super().__init__(config)
        for name in DROPPED[half]:
            delattr(self, name)
        if half != "whole":
            self.post_init()  # once more: what it noted of the dropped modules
        ignored = self._keys_to_ignore_on_load_unexpected or ()
        dropped = {rf"^{name}\." for name in DROPPED[half]}
        self._keys_to_ignore_on_load_unexpected = {*ignored, *dropped}


@dataclass(frozen=True)
class Captioner:
    """A BLIP-2, or a half of one, with what its inputs and outputs need.

    Attributes:
        model: in evaluation mode, no parameter requires a gradient.
        processor: the checkpoint's image processor and tokenizer.
        precision: of the weights, and of what is computed under :meth:`autocast`.
        half: which modules the model has; the others are no attributes of it.
    """

    model: Blip2ForConditionalGeneration
    processor: Blip2Processor
    precision: Precision = "float32"
    half: Half = "whole"

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image to pixel_values, float32 ``[3, H, W]``, with the size, mean, standard
        deviation and resampling of the checkpoint.
        """
        inputs = self.processor.image_processor(images=image, return_tensors="pt")
        pixel_values: Tensor = inputs["pixel_values"][0]
        return pixel_values

    def autocast(self) -> AbstractContextManager[Any]:
        """The context to compute in: at the model's precision, whatever its inputs' dtypes."""
        return autocast(self.device, self.precision)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.query_tokens.device
        return device

    @property
    def total_parameters(self) -> int:
        """Parameters of both halves, whichever is loaded and at whatever precision, without an
        adapter's.
        """
        with torch.device("meta"):
            model = Blip2ForConditionalGeneration(deepcopy(self.model.config))
        return sum(parameter.numel() for parameter in model.parameters())

    @property
    def end_of_caption(self) -> int:
        """Token id that ends a caption: the one the checkpoint's generation stops at."""
        configs: tuple[Any, ...] = (self.model.generation_config, self.model.config.text_config)
        for config in configs:
            token = config.eos_token_id
            if token is not None:
                return int(token[0] if isinstance(token, list | tuple) else token)
        return int(self.tokenizer.eos_token_id)

    @property
    def begin_of_text(self) -> list[int]:
        """Token ids that stand between the image and a caption: one for OPT, none for T5."""
        config: Any = self.model.config
        return [config.text_config.bos_token_id] if config.use_decoder_only_language_model else []

    @property
    def padding(self) -> int:
        """Token id that fills up shorter captions; masked wherever it stands."""
        pad = self.tokenizer.pad_token_id
        return self.end_of_caption if pad is None else int(pad)


def load_captioner(
    directory: Path,
    device: torch.device,
    precision: Precision = "float32",
    half: Half = "whole",
) -> Captioner:
    """Load the BLIP-2 in ``directory``, frozen and in evaluation mode.

    Args:
        directory: configuration, safetensors weights, processor and tokenizer.
        device: where to.
        precision: dtype of the weights, or int8 or int4 by bitsandbytes. In float16 the Q-Former
            stays in float32, as transformers has it.
        half: ``frozen`` for features and ``language`` for captions from them leave the other half
            on the disk.

    Raises:
        FileNotFoundError: the configuration or a weights file is not there.
        DamagedOutputError: weights are no whole file, or a number of them is not finite.
        ValueError: the folder is not a BLIP-2's, or its weights lack some of its tensors.
        ModuleNotFoundError: int8 or int4 is asked for and bitsandbytes is not installed.
        RuntimeError: int8 or int4 is asked for elsewhere than on CUDA.
    """
    options: dict[str, Any] = {"dtype": DTYPES.get(precision, torch.bfloat16)}
    if precision in QUANTIZED:
        options |= {"quantization_config": _quantization(precision, device)}
    require_outputs(directory / "config.json")  # first: of an empty folder it says most
    require_finite_weights(
        *weight_files(directory), without=tuple(f"{name}." for name in DROPPED[half])
    )
    if not sys.stderr.isatty():
        disable_progress_bar()  # a log would keep every step of it
    from_pretrained: Any = _HalfOfBlip2.from_pretrained
    model, info = from_pretrained(
        directory,
        config=_configuration(directory),
        half=half,
        device_map={"": device},
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        **options,
    )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(
            f"{directory} lacks {len(missing)} tensors of its model, among them {missing[0]!r}: "
            "fetch it again."
        )
    # Adapters and exports note the class by its name, and there is nothing more to it.
    model.__class__ = Blip2ForConditionalGeneration
    model.eval().requires_grad_(False)
    return Captioner(model, load_processor(directory), precision, half)


def load_processor(directory: Path) -> Blip2Processor:
    """The image processor and the tokenizer in ``directory``, without the model."""
    processor: Blip2Processor = Blip2Processor.from_pretrained(directory, local_files_only=True)
    return processor


def _configuration(directory: Path) -> Blip2Config:
    """The configuration, with the number of queries that the weights have: a missing one would
    be taken for 32.
    """
    path = directory / "config.json"
    require_outputs(path)
    written = json.loads(path.read_text())
    if written.get("model_type") != Blip2Config.model_type:
        raise ValueError(
            f"{path} has model_type {written.get('model_type')!r}, and a BLIP-2 has "
            f"{Blip2Config.model_type!r}: set weights.blip2 to another model."
        )
    config: Blip2Config = Blip2Config.from_pretrained(directory, local_files_only=True)
    config.num_query_tokens = tensor_shape(weight_files(directory), "query_tokens")[1]
    return config


def _quantization(precision: Precision, device: torch.device) -> BitsAndBytesConfig:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(
            f"precision {precision} needs bitsandbytes, which is not installed: "
            "in the checkout, run .venv/bin/pip install -c constraints.txt -e '.[quantization]'."
        )
    if device.type != "cuda":
        raise RuntimeError(
            f"precision {precision} needs a CUDA GPU, and the device is {device.type}: set "
            "base.device to cuda, or precision to float32 or bfloat16."
        )
    # The projection stays whole, as its weight tells what dtype the queries are to have, and so
    # does the output layer: it is small, or shares its weights with the embedding.
    whole = ["language_projection", "lm_head"]
    if precision == "int8":
        # It warns, at every product of every layer, that it rounds its inputs to float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=whole,
    )


def default_target_modules(model: Blip2ForConditionalGeneration) -> list[str]:
    """Names of the modules that LoRA adapts where the parameters leave it open.

    Raises:
        ValueError: the language model is of a family that has no default.
    """
    config: Any = model.config
    family = config.text_config.model_type
    if family not in LORA_TARGETS:
        raise ValueError(
            f"There is no default of finetune.lora.target_modules for the language model "
            f"{family!r} (only for {', '.join(LORA_TARGETS)}): name its modules there."
        )
    return list(LORA_TARGETS[family])


def complete(captioner: Captioner) -> None:
    """Make model, tokenizer and processor agree, in place, so that a saved copy of them works
    with plain transformers; our own passes, driven by embeddings, need none of it.

    The tokenizer has the image token, the embedding a row for it (a free one of a padded
    vocabulary, or a new one), the configuration its id; configuration and processor have the
    number of queries, and generation ends where captions do. Loss and captions stay what they
    were, but for the softmax over a new row where there was no room: the mean of the others.

    Raises:
        ValueError: the captioner is only a half, or quantized.
    """
    if captioner.half != "whole" or captioner.precision in QUANTIZED:
        raise ValueError(
            "Only a whole BLIP-2 of unquantized weights can be completed, found half "
            f"{captioner.half}, precision {captioner.precision}."
        )
    model: Any = captioner.model
    processor: Any = captioner.processor
    token: int = captioner.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)  # added by the processor
    rows = model.get_input_embeddings().num_embeddings
    if token >= rows:
        model.resize_token_embeddings(token + 1, mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight.data[rows:] = layer.weight.data[:rows].float().mean(0)
    end = captioner.end_of_caption
    model.config.image_token_index = token
    processor.num_query_tokens = model.config.num_query_tokens
    for config in (
        model.config.text_config,
        model.generation_config,
        model.language_model.generation_config,
    ):
        config.eos_token_id = end
        if config.pad_token_id is None:
            config.pad_token_id = captioner.padding
