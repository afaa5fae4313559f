"""Troika's forward pass in NumPy, float64 and plain loops, on tensors by the authors' names.

Written from the paper and the facts about the authors' code, not from ours. A model of ours is
computed from the names that :func:`authors_names` gives its tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Weights = dict[str, Array]

START, END, PADDING = 49406, 49407, 0


@dataclass(frozen=True)
class Architecture:
    """What the shapes of the tensors do not tell."""

    patch_size: int
    vision_heads: int
    text_heads: int
    traction_heads: int
    quick_gelu: bool = True


def float64(state: dict[str, Tensor]) -> Weights:
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def layer_norm(x: Array, w: Weights, name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    result: Array = scaled * w[f"{name}.weight"] + w[f"{name}.bias"]
    return result


def linear(x: Array, w: Weights, name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def activation(x: Array, quick: bool) -> Array:
    if quick:
        weight: Array = 1 / (1 + np.exp(-1.702 * x))
    else:
        weight = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return x * weight


def softmax(x: Array) -> Array:
    exponents = np.exp(x - x.max(-1, keepdims=True))
    result: Array = exponents / exponents.sum(-1, keepdims=True)
    return result


def unit(x: Array) -> Array:
    result: Array = x / np.sqrt((x**2).sum(-1, keepdims=True))
    return result


def attention(q: Array, k: Array, v: Array, heads: int, causal: bool = False) -> Array:
    """One image or text: [n, d], [m, d], [m, d]."""
    size = q.shape[1] // heads
    out = np.zeros((q.shape[0], v.shape[1]))
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for row in range(q.shape[0]):
            scores = np.array([q[row, part] @ k[column, part] for column in range(k.shape[0])])
            scores = scores / math.sqrt(size)
            if causal:
                scores[row + 1 :] = -np.inf
            out[row, part] = softmax(scores) @ v[:, part]
    return out


def self_attention(x: Array, w: Weights, name: str, heads: int, causal: bool) -> Array:
    joined = x @ w[f"{name}.in_proj_weight"].T + w[f"{name}.in_proj_bias"]
    q, k, v = np.split(joined, 3, axis=1)
    return linear(attention(q, k, v, heads, causal), w, f"{name}.out_proj")


def mlp(x: Array, w: Weights, name: str, quick: bool) -> Array:
    return linear(activation(linear(x, w, f"{name}.c_fc"), quick), w, f"{name}.c_proj")


def adapter(x: Array, w: Weights, index: int) -> Array:
    name = f"additional_visual_params.{index}"
    hidden = np.maximum(linear(x, w, f"{name}.down_proj"), 0)
    return 0.1 * linear(hidden, w, f"{name}.up_proj")


def layers_of(w: Weights, tower: str) -> int:
    return sum(
        name.startswith(f"{tower}.resblocks.") and name.endswith(".ln_1.weight") for name in w
    )


def image_tokens(image: Array, w: Weights, how: Architecture) -> Array:
    """Projected class token and patches, ``[1 + patches, d]``."""
    kernel, size = w["clip.visual.conv1.weight"], how.patch_size
    tokens = [w["clip.visual.class_embedding"]]
    for top in range(0, image.shape[1], size):
        for left in range(0, image.shape[2], size):
            patch = image[:, top : top + size, left : left + size]
            tokens.append(np.array([(patch * weights).sum() for weights in kernel]))
    x = np.stack(tokens) + w["clip.visual.positional_embedding"]
    if "clip.visual.ln_pre.weight" in w:
        x = layer_norm(x, w, "clip.visual.ln_pre")
    layers = layers_of(w, "clip.visual.transformer")
    for index in range(layers):
        block = f"clip.visual.transformer.resblocks.{index}"
        normed = layer_norm(x, w, f"{block}.ln_1")
        attended = self_attention(normed, w, f"{block}.attn", how.vision_heads, causal=False)
        x = x + attended + adapter(x, w, index)
        mixed = mlp(layer_norm(x, w, f"{block}.ln_2"), w, f"{block}.mlp", how.quick_gelu)
        x = x + mixed + adapter(x, w, layers + index)
    return layer_norm(x, w, "clip.visual.ln_post") @ w["clip.visual.proj"]


def text_feature(context: Array, words: list[Array], w: Weights, how: Architecture) -> Array:
    """The unit-length feature at the end mark of ``[start] context words [end] padding``."""
    table, positions = w["clip.token_embedding.weight"], w["clip.positional_embedding"]
    rows = [table[START], *context, *words, table[END]]
    end = len(rows) - 1
    rows += [table[PADDING]] * (len(positions) - len(rows))
    x = np.stack(rows) + positions
    for index in range(layers_of(w, "clip.transformer")):
        block = f"clip.transformer.resblocks.{index}"
        normed = layer_norm(x, w, f"{block}.ln_1")
        x = x + self_attention(normed, w, f"{block}.attn", how.text_heads, causal=True)
        x = x + mlp(layer_norm(x, w, f"{block}.ln_2"), w, f"{block}.mlp", how.quick_gelu)
    return unit(layer_norm(x, w, "clip.ln_final")[end] @ w["clip.text_projection"])


def disentangle(x: Array, w: Weights, name: str) -> Array:
    x = linear(x, w, f"{name}.fc1")
    x = (x - w[f"{name}.bn1_fc.running_mean"]) / np.sqrt(w[f"{name}.bn1_fc.running_var"] + 1e-5)
    return np.maximum(x * w[f"{name}.bn1_fc.weight"] + w[f"{name}.bn1_fc.bias"], 0)


def drawn(texts: Array, tokens: Array, w: Weights, heads: int) -> Array:
    """Texts after Cross-Modal Traction towards one image, unit length."""
    x = texts
    for index in range(sum(f"cmt.{n}.norm.weight" in w for n in range(9))):
        layer = f"cmt.{index}"
        q = linear(x, w, f"{layer}.cross_attn.q_proj")
        k = linear(tokens, w, f"{layer}.cross_attn.k_proj")
        v = linear(tokens, w, f"{layer}.cross_attn.v_proj")
        x = x + linear(attention(q, k, v, heads), w, f"{layer}.cross_attn.proj")
        hidden = linear(layer_norm(x, w, f"{layer}.norm"), w, f"{layer}.mlp.0")
        x = x + linear(activation(hidden, quick=True), w, f"{layer}.mlp.3")
    return unit(texts + w["lamda"] * x)


def branch_logits(
    images: Array, pairs: NDArray[np.int64], attributes: int, w: Weights, how: Architecture
) -> list[Array]:
    """Logits of composition ``[images, pairs]``, attributes and objects.

    Args:
        images: pixel values, ``[images, 3, size, size]``.
        pairs: positions of attribute and object, ``[pairs, 2]``.
        attributes: how many rows of ``soft_att_obj`` are attributes; the others are objects.
        w: all tensors, CLIP's among them.
        how: the rest.
    """
    words = w["soft_att_obj"]
    contexts = [w["comp_ctx_vectors"], w["attr_ctx_vectors"], w["obj_ctx_vectors"]]
    sequences = [
        [[words[a], words[attributes + o]] for a, o in pairs],
        [[word] for word in words[:attributes]],
        [[word] for word in words[attributes:]],
    ]
    texts = [
        np.stack([text_feature(context, sequence, w, how) for sequence in branch])
        for context, branch in zip(contexts, sequences, strict=True)
    ]
    logits: list[list[Array]] = [[], [], []]
    for image in images:
        tokens = image_tokens(image, w, how)
        pooled = tokens[0]
        features = [
            unit(pooled),
            unit(disentangle(pooled, w, "attr_disentangler")),
            unit(disentangle(pooled, w, "obj_disentangler")),
        ]
        for branch in range(3):
            # Normed once more for every branch: the attributes' tokens twice, the objects' thrice.
            tokens = layer_norm(tokens, w, "patch_norm")
            towards = drawn(texts[branch], tokens, w, how.traction_heads)
            logits[branch].append(towards * np.exp(w["clip.logit_scale"]) @ features[branch])
    return [np.stack(rows) for rows in logits]


def pair_scores(
    logits: list[Array],
    pairs: NDArray[np.int64],
    composition_weight: float = 1.0,
    primitives_weight: float = 1.0,
) -> Array:
    """The raw logit plus the product of both probabilities, pair by pair."""
    scores = np.empty_like(logits[0])
    for row in range(len(scores)):
        for column, (a, o) in enumerate(pairs):
            product = softmax(logits[1][row])[a] * softmax(logits[2][row])[o]
            scores[row, column] = (
                composition_weight * logits[0][row, column] + primitives_weight * product
            )
    return scores


RENAMED = {
    "prompts.composition_context": "comp_ctx_vectors",
    "prompts.attribute_context": "attr_ctx_vectors",
    "prompts.object_context": "obj_ctx_vectors",
    "traction.gain": "lamda",
    "traction.layers": "cmt",
    "query": "cross_attn.q_proj",
    "key": "cross_attn.k_proj",
    "value": "cross_attn.v_proj",
    "output": "cross_attn.proj",
    "mlp.expand": "mlp.0",
    "mlp.contract": "mlp.3",
    "attribute_disentangler": "attr_disentangler",
    "object_disentangler": "obj_disentangler",
    "linear": "fc1",
}


def authors_name(name: str, layers: int) -> str:
    """What the authors call a tensor of our model, whose vision tower has so many layers."""
    if name.startswith("clip."):
        return name
    if name.startswith("adapters."):
        _, branch, layer, end, part = name.split(".")
        index = int(layer) + (layers if branch == "mlp" else 0)
        return f"additional_visual_params.{index}.{end}_proj.{part}"
    if "disentangler.norm." in name:
        name = name.replace("norm", "bn1_fc")
    for ours, theirs in RENAMED.items():
        name = f".{name}.".replace(f".{ours}.", f".{theirs}.").strip(".")
    return name


def authors_names(state: dict[str, Tensor], context_length: int) -> dict[str, Tensor]:
    """The tensors of a model of ours as the authors' state dict has them, CLIP's among them."""
    layers = sum(name.endswith(".ln_1.weight") and ".visual." in name for name in state)
    vectors = ("prompts.attribute_vectors", "prompts.object_vectors")
    named = {
        authors_name(name, layers): tensor for name, tensor in state.items() if name not in vectors
    }
    named["soft_att_obj"] = torch.cat([state[name] for name in vectors])
    named["clip.positional_embedding"] = named["clip.positional_embedding"][:context_length]
    return named
