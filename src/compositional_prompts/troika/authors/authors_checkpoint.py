"""Reading the checkpoints of the authors' implementation (github.com/bighuang624/Troika).

It saves ``model.state_dict()``: what was trained under names of its own, the whole frozen CLIP as
``clip.*``, and the text tower once more as ``text_encoder.*``. The trained tensors become a model
directory of ours; of CLIP it is checked that it is the one at hand.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from compositional_prompts.clip.lean_open_clip import CLIP, QuickGELU
from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.compute.torch_files import read_state_dict
from compositional_prompts.troika.model.model_folder import load_trained_tensors
from compositional_prompts.troika.model.network import Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.model.vision_adapters import require_supported
from compositional_prompts.troika.parameters import TroikaTrain

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

log = logging.getLogger(__name__)


class ReferenceCheckpointError(ValueError):
    """A checkpoint is not the authors', or belongs to another CLIP, data set or configuration."""


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


def _require_parameters(
    state: Mapping[str, Tensor], clip: Clip, params: TroikaTrain, path: Path
) -> None:
    """Check that the parameters are those of the shapes in a checkpoint; say all at once."""
    available = clip.model.get_parameter(POSITIONS).shape[0]
    length = _rows(state, CLIP_PREFIX + POSITIONS, params.context_length)
    if length > available:
        raise ReferenceCheckpointError(
            f"{path}: {CLIP_PREFIX}{POSITIONS} has {length} positions, but the CLIP at hand "
            f"{available}: it is another CLIP."
        )
    bottleneck = "additional_visual_params.0.down_proj.weight"
    layers = {name.split(".")[1] for name in state if name.startswith("cmt.")}
    found = {
        "adapter_dim": _rows(state, bottleneck, params.adapter_dim),
        "traction_layers": len(layers) or params.traction_layers,
        "context_length": length,
    }
    wrong = [name for name, value in found.items() if value != getattr(params, name)]
    if wrong:
        raise ReferenceCheckpointError(
            f"{path} was trained with other parameters: write under troika_train "
            + ", ".join(f"{name}: {found[name]} (now {getattr(params, name)})" for name in wrong)
            + "."
        )


def _require_context(
    state: Mapping[str, Tensor], clip: Clip, params: TroikaTrain, path: Path
) -> None:
    tokens = int(clip.tokenizer([params.context])[0].argmax()) - 1
    for name in CONTEXTS:
        if (found := _rows(state, name, tokens)) != tokens:
            raise ReferenceCheckpointError(
                f"{path}: {name} holds {found} vectors, but troika_train.context "
                f"{params.context!r} is {tokens} tokens: put the words there with which the "
                "checkpoint was trained (ctx_init). One number must do for all three branches."
            )


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
            "of its size. Point weights.troika_clip at the CLIP of the checkpoint; the "
            "authors' is OpenAI's ViT-L/14, in open_clip ViT-L-14-quickgelu with pretrained openai."
        )
    return rounded


def convert_reference(
    path: Path, clip: Clip, vocabulary: Vocabulary, params: TroikaTrain
) -> Troika:
    """A model of ours with the tensors of a checkpoint of the authors', in float32.

    It is in evaluation mode, on the CLIP at hand; tensors of the checkpoint's own CLIP that float16
    has rounded otherwise are counted in a warning.

    ::

        clip = load_clip(Path("models/troika_clip"), torch.device("cpu"))
        vocabulary = Vocabulary.read(Path("data/pairs.parquet"))
        params, _ = read_params(Path("params.yaml"), TroikaTrain)
        model = convert_reference(Path("val_best.pt"), clip, vocabulary, params)
        pairs = torch.from_numpy(vocabulary.pair_indices)
        logits = model(pixel_values, pairs)  # composition, attribute, object
        scores = model.pair_scores(logits, pairs)

    Args:
        path: a state dict as ``torch.save`` writes it, of float32 or narrower, perhaps under the
            key ``state_dict`` and with the prefix of ``nn.DataParallel``.
        clip: the CLIP that it was trained upon.
        vocabulary: of the data set that it was trained on. The checkpoint names no attribute and
            no object: their vectors are taken to be in the sorted order of the labels.
        params: dropouts, context and weights of the score, which a checkpoint does not hold, and
            the bottleneck, the layers of traction and the context length, which must be its own.

    Raises:
        FileNotFoundError: there is no such file.
        TorchFileError: it holds no state dict, or more than weights (code is never run).
        ReferenceCheckpointError: a tensor is missing, left over, of another shape or not finite;
            the CLIP, the number of attributes and objects or a parameter are others.
    """
    state = read_state_dict(path)
    require_reference_clip(clip.model)
    _require_words(state, vocabulary, path)
    _require_context(state, clip, params, path)
    _require_parameters(state, clip, params, path)
    model = Troika(clip, vocabulary, TroikaConfig.from_params(params))
    ours = model.trained_state()
    frozen = {CLIP_PREFIX + name: tensor for name, tensor in clip.model.state_dict().items()}
    positions = CLIP_PREFIX + POSITIONS
    frozen[positions] = frozen[positions][: params.context_length]

    layers = clip.model.visual.transformer.layers
    names = dict(_trained_names(layers, params.traction_layers))
    attributes, objects = ours["prompts.attribute_vectors"], ours["prompts.object_vectors"]
    expected = {
        WORDS: torch.Size([len(attributes) + len(objects), attributes.shape[1]]),
        **{theirs: ours[name].shape for theirs, name in names.items()},
        **{name: tensor.shape for name, tensor in frozen.items()},
    }
    _require_names_and_shapes(state, expected, path)
    if rounded := _require_same_clip(state, frozen, path):
        log.warning(
            "%s: %d of its CLIP's tensors are rounded otherwise than those at hand; logits may "
            "differ in the third digit from those of the authors' code",
            path,
            rounded,
        )
    tensors = {name: state[theirs].to(ours[name].dtype) for theirs, name in names.items()}
    words = state[WORDS].to(attributes.dtype).split([len(attributes), len(objects)])
    tensors["prompts.attribute_vectors"], tensors["prompts.object_vectors"] = words
    load_trained_tensors(model, tensors, path)
    return model.eval()
