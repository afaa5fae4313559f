"""BLIP-2 from a folder in transformers' layout, at the precision that a stage asks for.

Whatever differs between checkpoints is settled here, once: the language model's family, sizes that
an older configuration leaves out, an image token that the tokenizer does not have.
"""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    BitsAndBytesConfig,
    Blip2ForConditionalGeneration,
    Blip2Processor,
)

from compositional_prompts.params import Precision

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions whose name is that of the weights' dtype."""

QUANTIZED = ("int8", "int4")
"""Precisions that bitsandbytes provides, on CUDA only; they compute in bfloat16."""


@dataclass(frozen=True)
class Captioner:
    """A BLIP-2 with what its inputs and outputs need.

    Attributes:
        model: in evaluation mode, no parameter requires a gradient.
        processor: the checkpoint's image processor and tokenizer.
        precision: of the weights, and of what is computed under :meth:`autocast`.
    """

    model: Blip2ForConditionalGeneration
    processor: Blip2Processor
    precision: Precision = "float32"

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
        dtype = DTYPES.get(self.precision, torch.bfloat16)
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        device: torch.device = self.model.language_projection.weight.device
        return device

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
    directory: Path, device: torch.device, precision: Precision = "float32"
) -> Captioner:
    """Load the BLIP-2 in ``directory``, frozen and in evaluation mode.

    Args:
        directory: configuration, safetensors weights, processor and tokenizer.
        device: where to.
        precision: dtype of the weights, or int8 or int4 by bitsandbytes.

    Raises:
        FileNotFoundError: the configuration or a weights file is not there.
        ModuleNotFoundError: int8 or int4 is asked for and bitsandbytes is not installed.
        RuntimeError: int8 or int4 is asked for elsewhere than on CUDA.
    """
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(
            f"{directory / 'config.json'} is missing: run `dvc repro weights` to make it."
        )
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    if precision in QUANTIZED:
        options |= {"quantization_config": _quantization(precision, device)}
        options |= {"dtype": torch.bfloat16, "device_map": {"": device}}
    else:
        options |= {"dtype": DTYPES[precision]}
    model: Any = Blip2ForConditionalGeneration.from_pretrained(directory, **options)
    if precision not in QUANTIZED:
        model.to(device)
    model.eval().requires_grad_(False)
    processor = Blip2Processor.from_pretrained(directory, local_files_only=True)
    return Captioner(model=model, processor=processor, precision=precision)


def _quantization(precision: Precision, device: torch.device) -> BitsAndBytesConfig:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(
            f"precision {precision} needs bitsandbytes, which is not installed: "
            "pip install 'compositional-prompts[quantization]'."
        )
    if device.type != "cuda":
        raise RuntimeError(
            f"precision {precision} needs a CUDA GPU, and the device is {device.type}: set "
            "base.device to cuda, or precision to float32 or bfloat16."
        )
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
