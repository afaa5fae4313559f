"""LoRA adapters of BLIP-2, in PEFT's layout: put into a model, written, merged into it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from compositional_prompts.captioner.model.blip2_model import Captioner, default_target_modules
from compositional_prompts.captioner.model.weight_files import ADAPTER_CONFIG
from compositional_prompts.captioner.parameters import Lora
from compositional_prompts.compute.training.few_bits_dropout import FewBitsDropout
from compositional_prompts.files.outputs import require_outputs
from compositional_prompts.files.tensors.finite_numbers import require_finite_weights

CONFIG_FILE = ADAPTER_CONFIG

AFTER_THE_CACHE = (".language_model.", ".language_projection.")
"""Parts of BLIP-2 that read the cached features; all others come before them."""


@contextmanager
def _quiet_names() -> Iterator[None]:
    """PEFT asks models for `is_gradient_checkpointing`, and transformers tells users of its new
    name, who can do nothing about it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def add_adapter(captioner: Captioner, lora: Lora, *, cached: bool = True) -> PeftModel:
    """Put a fresh adapter into the captioner's model; only its parameters require gradients.

    They are float32, whatever the precision of the model.

    Args:
        captioner: the model, changed in place.
        lora: which adapter. LoRA is Hu et al., 2021; DoRA Liu et al., 2024; rsLoRA Kalajdzievski,
            2023. Without ``target_modules`` those that are usual for the language model.
        cached: the model is fed from cached query features.

    Raises:
        ValueError: no module has one of ``lora.target_modules``, or, with ``cached``, one lies
            before the cached features, which would not follow it; or an entry of a pattern has
            no effect.
    """
    targets = lora.target_modules or default_target_modules(captioner.model)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(targets),
        bias=lora.bias,
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora,
    )
    names = [name for name, _ in captioner.model.named_modules()]
    modules = [name for name in names if check_target_module_exists(config, name)]
    ranks = [(entry.modules, entry.r) for entry in lora.rank_pattern]
    alphas = [(entry.modules, entry.alpha) for entry in lora.alpha_pattern]
    config.rank_pattern = _by_module("rank_pattern", ranks, modules)
    config.alpha_pattern = _by_module("alpha_pattern", alphas, modules)
    with _quiet_names():
        adapted = get_peft_model(captioner.model, config)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            for name, dropout in module.lora_dropout.items():
                if isinstance(dropout, nn.Dropout):  # Identity where the parameters ask for none
                    module.lora_dropout[name] = FewBitsDropout(dropout.p)
    if cached and (early := trained_before_the_cache(adapted)):
        raise ValueError(
            f"finetune.lora would train {early[0]!r}, which lies before the cached features: "
            "choose target_modules of the language model only, or set blip2_features.cache to "
            "false."
        )
    return adapted


def _by_module(
    parameter: str, values: Sequence[tuple[str, int]], modules: Sequence[str]
) -> dict[str, int]:
    """The value of every module that an expression matches, by its whole name; the first counts.

    PEFT takes the first too, but saves expressions sorted: where two match one module, a loaded
    adapter would not be the trained one.
    """
    found: dict[str, int] = {}
    for expression, value in values:
        own = [
            name
            for name in modules
            if name not in found and get_pattern_key([expression], name) == expression
        ]
        if not own:
            raise ValueError(
                f"finetune.lora.{parameter}: {expression!r} has no effect: it matches none of the "
                f"{len(modules)} adapted modules ({', '.join(modules[:2])}, ...), or entries "
                "before it match the same ones: put it before them, or remove it."
            )
        found |= dict.fromkeys(own, value)
    return found


def trained_before_the_cache(adapted: PeftModel) -> list[str]:
    """Names of the parameters that require gradients and lie before the cached features."""
    return [
        name
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad and not any(part in name for part in AFTER_THE_CACHE)
    ]


def count_parameters(captioner: Captioner, adapted: PeftModel) -> dict[str, int]:
    """Total and trainable parameters of the whole BLIP-2 with its adapter, as PEFT counts them."""
    added = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
    return {
        "total": captioner.total_parameters + added,
        "trainable": sum(p.numel() for p in adapted.parameters() if p.requires_grad),
    }


def save_adapter(adapted: PeftModel, tensors: Mapping[str, Tensor], directory: Path) -> None:
    """Write an adapter so that ``PeftModel.from_pretrained(base, directory)`` loads it.

    The files are the same from run to run and on every machine.

    Args:
        adapted: the model that it belongs to.
        tensors: its values, by the names that parameters of ``adapted`` have.
        directory: where to; made if it is not there.
    """
    adapted.save_pretrained(str(directory), state_dict=dict(tensors))
    (directory / "README.md").unlink()  # PEFT's card is an empty form
    path = directory / CONFIG_FILE
    config = json.loads(path.read_text())
    # PEFT writes a set in whatever order it has, and where this machine keeps the base model.
    config["target_modules"] = sorted(config["target_modules"])
    base = Path(config["base_model_name_or_path"] or "")
    if base.is_absolute():
        config["base_model_name_or_path"] = base.name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_adapter(captioner: Captioner, adapter: Path) -> None:
    """Merge the adapter in ``adapter`` into the captioner's weights, in place.

    Raises:
        MissingOutputError: there is no adapter in ``adapter``.
        DamagedOutputError: its weights are no whole file, or a number of them is not finite.
    """
    require_outputs(adapter / CONFIG_FILE)
    require_finite_weights(*adapter.glob("adapter_model.safetensors"))
    with _quiet_names():
        adapted = PeftModel.from_pretrained(captioner.model, str(adapter))
    adapted.merge_and_unload()
    captioner.model.eval().requires_grad_(False)
