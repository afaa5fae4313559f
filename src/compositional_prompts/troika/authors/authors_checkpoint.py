"""Reading the checkpoints of the authors' implementation (github.com/bighuang624/Troika).

It saves ``model.state_dict()``: what was trained under names of its own, the whole frozen CLIP as
``clip.*``, and the text tower once more as ``text_encoder.*``. The trained tensors become a model
directory of ours; of CLIP it is checked that it is the one at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from open_clip import CLIP
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from compositional_prompts.clip.open_clip_model import Clip, load_clip
from compositional_prompts.compute.learning_curve import write_curve
from compositional_prompts.compute.torch_files import read_state_dict
from compositional_prompts.files.outputs import write_metrics
from compositional_prompts.pipeline.stage import run_stage
from compositional_prompts.troika.model.model_folder import (
    TrainedState,
    load_trained_tensors,
    save_model,
)
from compositional_prompts.troika.model.network import Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.model.vision_adapters import require_supported
from compositional_prompts.troika.parameters import TroikaTrain
from compositional_prompts.troika.training.troika_curve import TroikaEpoch

CLIP_PREFIX = "clip."
TEXT_PREFIX = "text_encoder."
POSITIONS = "positional_embedding"
WORDS = "soft_att_obj"
CONTEXTS = {
    "comp_ctx_vectors": "prompts.composition_context",
    "attr_ctx_vectors": "prompts.attribute_context",
    "obj_ctx_vectors": "prompts.object_context",
}

RELATIVE_TOLERANCE = 1e-3
"""How far frozen weights may be apart, over their size: twice what float16 rounds off."""

ABSOLUTE_TOLERANCE = 1e-6
"""The same for numbers next to zero."""

HEAD_WIDTH = 64
"""Width of an attention head in both towers of the authors' CLIP, whatever its configuration."""

NAMES_IN_ERROR = 20


class ReferenceCheckpointError(ValueError):
    """A checkpoint is not the authors', or belongs to another CLIP, data set or configuration."""


@dataclass(frozen=True)
class ReferenceModel:
    """What a checkpoint of the authors' became.

    Attributes:
        model: with its tensors, in evaluation mode; ``model(pixel_values, pairs)`` gives the
            logits of the three branches and ``model.pair_scores(logits, pairs)`` the scores.
        differences: parameters that the checkpoint has otherwise than ``params.yaml``, by name:
            (in the checkpoint, in the parameters).
        rounded: CLIP's tensors that are not the same to the bit, but for what float16 rounds off;
            the CLIP at hand is used.
    """

    model: Troika
    differences: dict[str, tuple[int, int]]
    rounded: int


def _trained_names(vision_layers: int, traction_layers: int) -> Iterator[tuple[str, str]]:
    """Their name and ours of every trained tensor except the words' vectors."""
    for layer in range(vision_layers):
        # One list in their model: the attention's adapters first, then those of the MLPs.
        for index, branch in ((layer, "attention"), (layer + vision_layers, "mlp")):
            for part in ("weight", "bias"):
                for end in ("down", "up"):
                    yield (
                        f"additional_visual_params.{index}.{end}_proj.{part}",
                        f"adapters.{branch}.{layer}.{end}.{part}",
                    )
    for layer in range(traction_layers):
        theirs, ours = f"cmt.{layer}", f"traction.layers.{layer}"
        for name in ("query", "key", "value"):
            yield f"{theirs}.cross_attn.{name[0]}_proj.weight", f"{ours}.{name}.weight"
        for part in ("weight", "bias"):
            yield f"{theirs}.cross_attn.proj.{part}", f"{ours}.output.{part}"
            yield f"{theirs}.norm.{part}", f"{ours}.norm.{part}"
            # Their MLP is a sequence of four, whose activation and dropout have no tensors.
            yield f"{theirs}.mlp.0.{part}", f"{ours}.mlp.expand.{part}"
            yield f"{theirs}.mlp.3.{part}", f"{ours}.mlp.contract.{part}"
    for theirs, ours in (("attr", "attribute"), ("obj", "object")):
        for part in ("weight", "bias"):
            yield f"{theirs}_disentangler.fc1.{part}", f"{ours}_disentangler.linear.{part}"
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            yield f"{theirs}_disentangler.bn1_fc.{part}", f"{ours}_disentangler.norm.{part}"
    yield from CONTEXTS.items()
    yield "lamda", "traction.gain"
    for part in ("weight", "bias"):
        yield f"patch_norm.{part}", f"patch_norm.{part}"


def _shown(names: Sequence[str]) -> str:
    more = len(names) - NAMES_IN_ERROR
    return ", ".join(names[:NAMES_IN_ERROR]) + (f", and {more} more" if more > 0 else "")


def require_reference_clip(model: nn.Module) -> None:
    """Check that ``model`` computes as the authors' CLIP does with the same weights.

    Activation, heads, epsilons and the causal mask leave no trace in a checkpoint's tensors.

    Raises:
        ReferenceCheckpointError: naming what is different and what is expected.
        UnsupportedClipError: the CLIP is no plain vision-transformer CLIP.
    """
    require_supported(model)
    assert isinstance(model, CLIP)
    for name, part in model.named_modules():
        if name.endswith("gelu") and not isinstance(part, QuickGELU):
            raise ReferenceCheckpointError(
                f"This CLIP has {type(part).__name__} ({name}), but the authors' has QuickGELU, as "
                "OpenAI's weights need: with the other, cosines are off by about 0.05. In "
                "weights.troika_clip take the model name that ends in -quickgelu, as "
                "ViT-L-14-quickgelu with pretrained openai; a folder of OpenAI's weights needs "
                '"quick_gelu": true under "model_cfg" in open_clip_config.json.'
            )
        if isinstance(part, nn.LayerNorm) and part.eps != 1e-5:
            raise ReferenceCheckpointError(
                f"This CLIP's layer norm {name} has an epsilon of {part.eps:g}, but the authors' "
                "has 1e-05: it is another CLIP."
            )
        # Below one head's width the authors' rule gives no head at all.
        if isinstance(part, nn.MultiheadAttention) and part.embed_dim >= HEAD_WIDTH:
            heads = part.embed_dim // HEAD_WIDTH
            if part.num_heads != heads:
                raise ReferenceCheckpointError(
                    f"This CLIP's {name} has {part.num_heads} heads, but the authors' CLIP of "
                    f"width {part.embed_dim} has {heads}, one per {HEAD_WIDTH}: it is another CLIP."
                )
    if model.attn_mask is None:
        raise ReferenceCheckpointError(
            "This CLIP's text tower looks ahead, but the authors' has a causal mask: it is another "
            "CLIP."
        )


def require_same_order(kind: str, names: Sequence[str]) -> None:
    """Check that sorted names stand in the order of the vectors in a checkpoint.

    The authors sort the names as the data set's files spell them, without white space. Where a
    label has white space it was respelled, and the order holds only if no spelling changes it.

    Args:
        kind: what is named, for the error.
        names: sorted, as :class:`~.model.pair_vocabulary.Vocabulary` has them.

    Raises:
        ReferenceCheckpointError: naming two labels whose order is uncertain.
    """
    if not any(character.isspace() for name in names for character in name):
        return
    for separator in (".", "_", "-", ""):
        spelled = ["".join(separator if c.isspace() else c for c in name) for name in names]
        for variant in (spelled, [name.lower() for name in spelled]):
            order = sorted(range(len(names)), key=variant.__getitem__)
            row = next((row for row, place in enumerate(order) if row != place), None)
            if row is not None:
                raise ReferenceCheckpointError(
                    "Labels with white space are spelled otherwise in the authors' data, where "
                    f"{kind} {names[order[row]]!r} may come before {names[row]!r}: which vector is "
                    "whose cannot be told. Spell labels as the data set's own train_pairs.txt "
                    "does (dots for blanks)."
                )


def _rows(state: Mapping[str, Tensor], name: str, default: int) -> int:
    """Rows of a tensor; the default, if it is missing, lets the others be checked all the same."""
    tensor = state.get(name)
    return default if tensor is None or tensor.dim() == 0 else tensor.shape[0]


def _derived_config(
    state: Mapping[str, Tensor], clip: Clip, params: TroikaTrain, path: Path
) -> TroikaConfig:
    """The parameters, with what the shapes of a checkpoint say."""
    default = TroikaConfig.from_params(params)
    layers = {name.split(".")[1] for name in state if name.startswith("cmt.")}
    config = replace(
        default,
        adapter_dim=_rows(state, "additional_visual_params.0.down_proj.weight", params.adapter_dim),
        traction_layers=len(layers) or params.traction_layers,
        context_length=_rows(state, CLIP_PREFIX + POSITIONS, params.context_length),
    )
    available = clip.model.get_parameter(POSITIONS).shape[0]
    if config.context_length > available:
        raise ReferenceCheckpointError(
            f"{path}: {CLIP_PREFIX}{POSITIONS} has {config.context_length} positions, but the CLIP "
            f"at hand {available}: it is another CLIP."
        )
    tokens = int(clip.tokenizer([config.context])[0].argmax()) - 1
    for name in CONTEXTS:
        if (found := _rows(state, name, tokens)) != tokens:
            raise ReferenceCheckpointError(
                f"{path}: {name} holds {found} vectors, but troika_train.context "
                f"{config.context!r} is {tokens} tokens: put the words there with which the "
                "checkpoint was trained (ctx_init). One number must do for all three branches."
            )
    if tokens + 4 > config.context_length:
        raise ReferenceCheckpointError(
            f"{path}: {config.context_length} positions are too few for a context of {tokens} "
            "tokens, an attribute, an object and the two end marks."
        )
    return config


def _require_words(state: Mapping[str, Tensor], vocabulary: Vocabulary, path: Path) -> None:
    attributes, objects = len(vocabulary.attributes), len(vocabulary.objects)
    rows = _rows(state, WORDS, attributes + objects)
    if rows != attributes + objects:
        raise ReferenceCheckpointError(
            f"{path}: {WORDS} holds {rows} vectors, but pairs.parquet names {attributes} "
            f"attributes and {objects} objects, {attributes + objects} together: it is of another "
            "data set or split."
        )
    require_same_order("attribute", vocabulary.attributes)
    require_same_order("object", vocabulary.objects)


def _require_names_and_shapes(
    state: Mapping[str, Tensor], expected: Mapping[str, torch.Size], path: Path
) -> None:
    """Check that every tensor is there in its shape and nothing is left over; say all at once."""
    doubles = {
        TEXT_PREFIX + name.removeprefix(CLIP_PREFIX)
        for name in expected
        if name.startswith(CLIP_PREFIX) and not name.startswith(f"{CLIP_PREFIX}visual.")
    }
    problems = []
    if missing := [name for name in expected if name not in state]:
        problems.append(f"missing ({len(missing)}): {_shown(missing)}")
    if extra := [name for name in state if name not in expected and name not in doubles]:
        problems.append(f"left over ({len(extra)}): {_shown(extra)}")
    wrong = [
        f"{name} is {list(state[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    if wrong:
        problems.append(f"of another shape ({len(wrong)}): {_shown(wrong)}")
    if problems:
        raise ReferenceCheckpointError(
            f"{path} is no checkpoint of the authors' Troika on this CLIP:\n  "
            + "\n  ".join(problems)
        )
    for name, tensor in state.items():
        whole = name.endswith("num_batches_tracked")
        if whole is tensor.is_floating_point() or tensor.is_complex():
            kind = "whole" if whole else "real"
            raise ReferenceCheckpointError(
                f"{path}: {name} is {tensor.dtype}, expected {kind} numbers."
            )
        if not whole and not torch.isfinite(tensor).all():
            raise ReferenceCheckpointError(
                f"{path}: {name} has values that are not finite: the training had diverged."
            )


def _require_same_clip(
    state: Mapping[str, Tensor], frozen: Mapping[str, Tensor], path: Path
) -> int:
    """Check the frozen tensors, by their names in the checkpoint, and their doubles.

    Returns how many are the same but for rounding.
    """
    for name, tensor in state.items():
        if name.startswith(TEXT_PREFIX):
            single = CLIP_PREFIX + name.removeprefix(TEXT_PREFIX)
            if not torch.equal(tensor, state[single]):
                raise ReferenceCheckpointError(
                    f"{path}: {name} and {single} are one tensor in the authors' model, but "
                    "differ: the checkpoint was altered."
                )
    deviations: dict[str, float] = {}
    rounded = 0
    for name, ours in frozen.items():
        if state[name].dtype == ours.dtype and torch.equal(state[name], ours):
            continue
        wanted = ours.double()
        apart = (state[name].double() - wanted).abs()
        if bool((apart > ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * wanted.abs()).any()):
            size = wanted.square().mean().sqrt().clamp(min=ABSOLUTE_TOLERANCE)
            deviations[name] = float(apart.square().mean().sqrt() / size)
        rounded += bool(apart.any())
    if deviations:
        worst = max(deviations, key=deviations.__getitem__)
        raise ReferenceCheckpointError(
            f"{path} was trained on another CLIP than the one at hand: {len(deviations)} of "
            f"{len(frozen)} frozen tensors differ, most of all {worst}, by {deviations[worst]:.2g} "
            "of its size. Point weights.troika_clip (or --clip) at the CLIP of the checkpoint; the "
            "authors' is OpenAI's ViT-L/14, in open_clip ViT-L-14-quickgelu with pretrained openai."
        )
    return rounded


def convert_reference(
    path: Path, clip: Clip, vocabulary: Vocabulary, params: TroikaTrain
) -> ReferenceModel:
    """A model of ours with the tensors of a checkpoint of the authors', in float32.

    ::

        clip = load_clip(Path("models/troika_clip"), torch.device("cpu"))
        vocabulary = Vocabulary.read(Path("data/pairs.parquet"))
        params, _ = read_params(Path("params.yaml"), TroikaTrain)
        model = convert_reference(Path("val_best.pt"), clip, vocabulary, params).model
        pairs = torch.from_numpy(vocabulary.pair_indices)
        logits = model(pixel_values, pairs)  # composition, attribute, object
        scores = model.pair_scores(logits, pairs)

    Args:
        path: a state dict as ``torch.save`` writes it, of float32 or narrower, perhaps under the
            key ``state_dict`` and with the prefix of ``nn.DataParallel``.
        clip: the CLIP that it was trained upon.
        vocabulary: of the data set that it was trained on. The checkpoint names no attribute and
            no object: their vectors are taken to be in the sorted order of the labels.
        params: dropouts, context and weights of the score, which a checkpoint does not hold; the
            bottleneck, the layers of traction and the context length are read off the shapes.

    Raises:
        FileNotFoundError: there is no such file.
        TorchFileError: it holds no state dict, or more than weights (code is never run).
        ReferenceCheckpointError: a tensor is missing, left over, of another shape or not finite;
            the CLIP, the number of attributes and objects or the context are others.
    """
    state = read_state_dict(path)
    require_reference_clip(clip.model)
    _require_words(state, vocabulary, path)
    config = _derived_config(state, clip, params, path)
    model = Troika(clip, vocabulary, config)
    ours = model.trained_state()
    frozen = {CLIP_PREFIX + name: tensor for name, tensor in clip.model.state_dict().items()}
    positions = CLIP_PREFIX + POSITIONS
    frozen[positions] = frozen[positions][: config.context_length]

    layers = clip.model.visual.transformer.layers
    names = dict(_trained_names(layers, config.traction_layers))
    attributes, objects = ours["prompts.attribute_vectors"], ours["prompts.object_vectors"]
    expected = {
        WORDS: torch.Size([len(attributes) + len(objects), attributes.shape[1]]),
        **{theirs: ours[name].shape for theirs, name in names.items()},
        **{name: tensor.shape for name, tensor in frozen.items()},
    }
    _require_names_and_shapes(state, expected, path)
    rounded = _require_same_clip(state, frozen, path)

    tensors = {name: state[theirs].to(ours[name].dtype) for theirs, name in names.items()}
    words = state[WORDS].to(attributes.dtype).split([len(attributes), len(objects)])
    tensors["prompts.attribute_vectors"], tensors["prompts.object_vectors"] = words
    load_trained_tensors(model, tensors, path)
    differences = {
        f"troika_train.{key}": (getattr(config, key), getattr(params, key))
        for key in ("adapter_dim", "traction_layers", "context_length")
        if getattr(config, key) != getattr(params, key)
    }
    return ReferenceModel(model.eval(), differences, rounded)


def import_reference(
    checkpoint: Path,
    clip_directory: Path,
    pairs: Path,
    model_directory: Path,
    metrics: Path,
    params: TroikaTrain,
) -> str:
    """Put a checkpoint of the authors' in the place of what the stage ``troika_train`` writes.

    All outputs of the stage are written, or ``dvc commit`` would not take them: the model (best
    and last are the same), its metrics without any of training, and a learning curve of no epoch.

    Args:
        checkpoint: the ``.pt`` file.
        clip_directory: the CLIP that it was trained upon.
        pairs: ``pairs.parquet``.
        model_directory: where to; replaced if it is there.
        metrics: the folder of ``troika_train.json``, ``plots/troika.csv`` and
            ``timing/troika_train.json``.
        params: ``troika_train``.

    Returns:
        What was read and what to do next, for the user.

    Raises:
        Whatever :func:`convert_reference` raises; nothing is written then.
    """
    with run_stage("troika_train", metrics / "timing" / "troika_train.json"):
        vocabulary = Vocabulary.read(pairs)
        clip = load_clip(clip_directory, torch.device("cpu"))
        converted = convert_reference(checkpoint, clip, vocabulary, params)
        model = converted.model
        tensors = {name: tensor.clone() for name, tensor in model.trained_state().items()}
        state = TrainedState(tensors, tensors, best_epoch=0, epochs=0)
        save_model(model_directory, vocabulary, clip, model.config, state)
        parameters = list(model.parameters())
        write_curve(TroikaEpoch, [], metrics / "plots" / "troika.csv")
        write_metrics(
            {
                "trained": True,
                "selection": "imported",
                "pairs": {"seen": len(vocabulary.seen_columns), "all": len(vocabulary.pairs)},
                "parameters": {
                    "total": sum(part.numel() for part in parameters),
                    "trainable": sum(part.numel() for part in parameters if part.requires_grad),
                },
            },
            metrics / "troika_train.json",
        )
    return _account(checkpoint, model_directory, vocabulary, converted)


def _account(
    checkpoint: Path, model_directory: Path, vocabulary: Vocabulary, converted: ReferenceModel
) -> str:
    config = converted.model.config
    lines = [
        f"{model_directory}: the trained tensors of {checkpoint}, with adapters of "
        f"{config.adapter_dim} and {config.traction_layers} layers of traction.",
    ]
    for kind, names in (("attributes", vocabulary.attributes), ("objects", vocabulary.objects)):
        lines.append(f"  vectors of {len(names)} {kind}, in the order {names[0]} ... {names[-1]}")
    if converted.rounded:
        lines.append(
            f"  {converted.rounded} of the CLIP's tensors are rounded otherwise than the "
            "checkpoint's: logits may differ in the third digit from those of the authors' code"
        )
    for name, (found, given) in converted.differences.items():
        lines.append(
            f"  {name} is {found} in the checkpoint and {given} in the parameters: write {found} "
            "there before the next command, so that dvc.lock tells the truth"
        )
    lines += [
        "Next, to record it as what the stage wrote, and to name the catalog with it:",
        "  dvc commit -f troika_train",
        "  dvc repro troika_predict",
        "Whatever changes a dependency of troika_train trains anew in its place; "
        "`dvc freeze troika_train` keeps it.",
    ]
    return "\n".join(lines)
