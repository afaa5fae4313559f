"""Checkpoints of the authors' implementation: the same numbers, and nothing taken on trust."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from troika.authors.authors_files import (
    ATTRIBUTES,
    AUTHORS_PAIRS,
    BOTTLENECK,
    MODEL_CONFIG,
    OBJECTS,
    TEXT_WIDTH,
    TRACTION,
    WIDTH,
    State,
    authors_state,
)  # fmt: skip
from troika.numpy_forward import Architecture, branch_logits, float64, pair_scores

from compositional_prompts.clip.open_clip_model import CONFIG_FILE, Clip, load_clip
from compositional_prompts.compute.torch_files import TorchFileError
from compositional_prompts.troika.authors.authors_checkpoint import (
    ReferenceCheckpointError,
    convert_reference,
    require_reference_clip,
    require_same_order,
)
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.model.vision_adapters import VisionAdapters
from compositional_prompts.troika.parameters import TroikaTrain

CPU = torch.device("cpu")
PARTS = ("weight", "bias")


# --- The same numbers ----------------------------------------------------------------------------


def test_logits_and_scores_are_the_authors(
    clip_folder: Path, vocabulary: Vocabulary, params: TroikaTrain, tmp_path: Path
) -> None:
    clip = load_clip(clip_folder, CPU)
    weights = authors_state(clip, seed=int.from_bytes(os.urandom(4), "little"))
    torch.save(weights, tmp_path / "val_best.pt")
    model = convert_reference(tmp_path / "val_best.pt", clip, vocabulary, params)
    pixel_values = torch.randn(3, 3, 16, 16)
    pairs = torch.from_numpy(vocabulary.pair_indices)
    how = Architecture(patch_size=8, vision_heads=2, text_heads=1, traction_heads=2)
    expected = branch_logits(
        pixel_values.double().numpy(), AUTHORS_PAIRS, len(ATTRIBUTES), float64(weights), how
    )
    expected_scores = pair_scores(expected, AUTHORS_PAIRS)
    assert min(branch.std(axis=0).min() for branch in expected) > 0.01

    with torch.inference_mode():
        single = model(pixel_values, pairs)
        single_scores = model.pair_scores(single, pairs)
    for found, wanted in zip((*single, single_scores), (*expected, expected_scores), strict=True):
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4, rtol=0)

    model.double()
    with torch.inference_mode():
        double = model(pixel_values.double(), pairs)
        double_scores = model.pair_scores(double, pairs)
    for found, wanted in zip((*double, double_scores), (*expected, expected_scores), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9, rtol=0)


def test_vectors_belong_to_their_labels(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, state: State, saved: Any
) -> None:
    model = convert_reference(saved(), clip, vocabulary, params)
    assert (list(vocabulary.attributes), list(vocabulary.objects)) == (ATTRIBUTES, OBJECTS)
    prompts: Any = model.prompts
    torch.testing.assert_close(prompts.attribute_vectors.detach(), state["soft_att_obj"][:3])
    torch.testing.assert_close(prompts.object_vectors.detach(), state["soft_att_obj"][3:])
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.clip.parameters())


def test_the_text_tower_need_not_be_there_twice(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, state: State, saved: Any
) -> None:
    def without_doubles(state: State) -> State:
        return {k: v for k, v in state.items() if not k.startswith("text_encoder.")}

    model = convert_reference(saved(without_doubles), clip, vocabulary, params)
    torch.testing.assert_close(model.traction.gain.detach(), state["lamda"])


def test_half_precision_is_widened(
    clip: Clip,
    vocabulary: Vocabulary,
    params: TroikaTrain,
    state: State,
    saved: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def halved(state: State) -> State:
        return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}

    convert_reference(saved(), clip, vocabulary, params)
    assert caplog.text == ""
    model = convert_reference(saved(halved), clip, vocabulary, params)
    assert f"{len(clip.model.state_dict())} of its CLIP's tensors are rounded" in caplog.text
    for name, tensor in model.trained_state().items():
        whole = name.endswith("num_batches_tracked")
        assert tensor.dtype == (torch.int64 if whole else torch.float32), name
    gain = model.traction.gain.detach()
    assert torch.equal(gain, state["lamda"].half().float())
    assert not torch.equal(gain, state["lamda"])
    tracked = model.attribute_disentangler.norm.get_buffer("num_batches_tracked")
    assert int(tracked) == 2700


# --- What does not belong together ---------------------------------------------------------------


def refusal(
    path: Path, clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, message: str
) -> str:
    with pytest.raises(ReferenceCheckpointError, match=message) as refused:
        convert_reference(path, clip, vocabulary, params)
    return str(refused.value)


def test_every_misfit_is_named_at_once(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, saved: Any
) -> None:
    def change(state: State) -> None:
        del state["cmt.1.cross_attn.q_proj.weight"], state["clip.visual.proj"]
        state["additional_visual_params.4.up_proj.bias"] = torch.zeros(WIDTH)
        state["text_encoder.visual.proj"] = torch.zeros(3)
        state["lamda"] = torch.zeros(4)
        state["clip.ln_final.bias"] = torch.zeros(1, TEXT_WIDTH)

    error = refusal(saved(change), clip, vocabulary, params, "is no checkpoint of the authors'")
    assert "missing (2): cmt.1.cross_attn.q_proj.weight, clip.visual.proj\n" in error
    extra = "additional_visual_params.4.up_proj.bias, text_encoder.visual.proj"
    assert f"left over (2): {extra}\n" in error
    assert "of another shape (2): lamda is [4], expected [128]" in error
    assert "clip.ln_final.bias is [1, 64], expected [64]" in error


def test_many_misfits_are_counted(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, saved: Any
) -> None:
    def change(state: State) -> State:
        return {name: tensor for name, tensor in state.items() if not name.startswith("clip.")}

    frozen = len(clip.model.state_dict())
    error = refusal(saved(change), clip, vocabulary, params, rf"missing \({frozen}\)")
    assert f"and {frozen - 20} more" in error


def test_another_clip_is_refused_by_its_worst_tensor(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, saved: Any
) -> None:
    def change(state: State) -> None:
        for name in ("visual.proj", "transformer.resblocks.1.mlp.c_fc.weight"):
            noise = torch.randn_like(state[f"clip.{name}"])
            state[f"clip.{name}"] = state[f"clip.{name}"] + 0.1 * noise * (1 + ("fc" in name))
        state["text_encoder.transformer.resblocks.1.mlp.c_fc.weight"] = state[
            "clip.transformer.resblocks.1.mlp.c_fc.weight"
        ]

    error = refusal(saved(change), clip, vocabulary, params, "was trained on another CLIP")
    assert f"2 of {len(clip.model.state_dict())} frozen tensors differ" in error
    assert "most of all clip.transformer.resblocks.1.mlp.c_fc.weight, by 2" in error
    assert "weights.troika_clip" in error


def test_one_changed_number_is_another_clip(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, saved: Any
) -> None:
    def change(state: State) -> None:
        state["clip.logit_scale"] = state["clip.logit_scale"] * 1.01

    refusal(saved(change), clip, vocabulary, params, "1 of .+ most of all clip.logit_scale")


def test_doubles_must_agree(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, saved: Any
) -> None:
    def change(state: State) -> None:
        state["text_encoder.ln_final.bias"] = state["text_encoder.ln_final.bias"] + 1e-6

    refusal(saved(change), clip, vocabulary, params, "text_encoder.ln_final.bias and clip.ln_final")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_diverged_weights_are_refused(
    number: float, clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, saved: Any
) -> None:
    def change(state: State) -> None:
        state["cmt.2.norm.bias"] = state["cmt.2.norm.bias"].clone()
        state["cmt.2.norm.bias"][5] = number

    path = saved(change)
    with pytest.raises(TorchFileError, match=r"val_best\.pt: .*'cmt\.2\.norm\.bias'.* not finite"):
        convert_reference(path, clip, vocabulary, params)


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("lamda", torch.int64, "lamda is torch.int64, expected real numbers"),
        ("lamda", torch.complex64, "lamda is torch.complex64, expected real numbers"),
        (
            "attr_disentangler.bn1_fc.num_batches_tracked",
            torch.float32,
            "tracked is torch.float32, expected whole numbers",
        ),
    ],
)
def test_other_kinds_of_numbers_are_refused(
    name: str,
    dtype: torch.dtype,
    message: str,
    clip: Clip,
    vocabulary: Vocabulary,
    params: TroikaTrain,
    saved: Any,
) -> None:
    def change(state: State) -> None:
        state[name] = state[name].to(dtype)

    refusal(saved(change), clip, vocabulary, params, message)


def test_another_data_set_is_refused(clip: Clip, params: TroikaTrain, saved: Any) -> None:
    other = Vocabulary.of([("Wool", "Slippers"), ("Silk", "Heels")], [True] * 2, ["train"] * 2, "")
    message = "soft_att_obj holds 6 vectors, but pairs.parquet names 2 attributes and 2 objects, 4"
    refusal(saved(), clip, other, params, message)


def test_another_context_is_refused(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, saved: Any
) -> None:
    longer = params.model_copy(update={"context": "a nice photo of"})
    message = "comp_ctx_vectors holds 3 vectors, but troika_train.context 'a nice photo of' is 4"
    refusal(saved(), clip, vocabulary, longer, message)

    def change(state: State) -> None:
        state["obj_ctx_vectors"] = torch.zeros(2, TEXT_WIDTH)

    refusal(saved(change), clip, vocabulary, params, "obj_ctx_vectors holds 2 .+ all three branch")


def test_parameters_that_the_shapes_contradict_are_named_at_once(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, saved: Any
) -> None:
    other = params.model_copy(
        update={"adapter_dim": 64, "traction_layers": 2, "context_length": 12}
    )
    message = (
        r"val_best\.pt was trained with other parameters: write under troika_train "
        rf"adapter_dim: {BOTTLENECK} \(now 64\), traction_layers: {TRACTION} \(now 2\), "
        r"context_length: 8 \(now 12\)\."
    )
    refusal(saved(), clip, vocabulary, other, message)
    one = params.model_copy(update={"adapter_dim": 64})
    error = refusal(saved(), clip, vocabulary, one, "adapter_dim")
    assert "traction_layers" not in error


def test_more_positions_than_the_clip_has_are_another_clip(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, saved: Any
) -> None:
    def change(state: State) -> None:
        state["clip.positional_embedding"] = torch.zeros(78, TEXT_WIDTH)

    refusal(saved(change), clip, vocabulary, params, "has 78 positions, but the CLIP at hand 77")


# --- CLIPs that compute something else with the same weights -------------------------------------


def changed_config(tower: str | None = None, **changes: Any) -> dict[str, Any]:
    config = deepcopy(MODEL_CONFIG)
    (config if tower is None else config[tower]).update(changes)
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed_config(quick_gelu=False), r"has GELU \(visual.transformer.+-quickgelu"),
        (
            changed_config("vision_cfg", head_width=32),
            r"0\.attn has 4 heads, .+ has 2, one per",
        ),
        (changed_config("text_cfg", heads=2), r"transformer.resblocks.0.attn has 2 heads.+has 1,"),
        (changed_config("text_cfg", norm_kwargs={"eps": 1e-6}), "epsilon of 1e-06, but the auth"),
        (changed_config("text_cfg", no_causal_mask=True), "looks ahead, but .+ causal mask"),
    ],
)
def test_clips_of_another_architecture_are_refused(config: dict[str, Any], message: str) -> None:
    with torch.device("meta"):
        require_reference_clip(open_clip.CLIP(**changed_config()))
        other = open_clip.CLIP(**config)
    with pytest.raises(ReferenceCheckpointError, match=message):
        require_reference_clip(other)


def test_a_folder_without_quick_gelu_is_refused(
    clip_folder: Path, vocabulary: Vocabulary, params: TroikaTrain, saved: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for file in clip_folder.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / CONFIG_FILE).read_text())
    del config["model_cfg"]["quick_gelu"]
    (folder / CONFIG_FILE).unlink()
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    refusal(saved(), load_clip(folder, CPU), vocabulary, params, "the authors' has QuickGELU")


@pytest.mark.parametrize(
    ("name", "width", "layers", "patch_size", "text_width", "dimension"),
    [
        ("ViT-B-32-quickgelu", 768, 12, 32, 512, 512),
        ("ViT-L-14-quickgelu", 1024, 24, 14, 768, 768),
    ],
)
def test_open_clip_names_tensors_as_openai_does(
    name: str, width: int, layers: int, patch_size: int, text_width: int, dimension: int
) -> None:
    def tower(prefix: str, width: int, layers: int) -> dict[str, list[int]]:
        shapes = {}
        for layer in range(layers):
            block = f"{prefix}transformer.resblocks.{layer}"
            shapes[f"{block}.attn.in_proj_weight"] = [3 * width, width]
            shapes[f"{block}.attn.in_proj_bias"] = [3 * width]
            shapes[f"{block}.attn.out_proj.weight"] = [width, width]
            shapes[f"{block}.mlp.c_fc.weight"] = [4 * width, width]
            shapes[f"{block}.mlp.c_fc.bias"] = [4 * width]
            shapes[f"{block}.mlp.c_proj.weight"] = [width, 4 * width]
            vectors = ("attn.out_proj.bias", "mlp.c_proj.bias", "ln_1.weight", "ln_1.bias")
            for vector in (*vectors, "ln_2.weight", "ln_2.bias"):
                shapes[f"{block}.{vector}"] = [width]
        return shapes

    expected = {
        "visual.class_embedding": [width],
        "visual.positional_embedding": [(224 // patch_size) ** 2 + 1, width],
        "visual.proj": [width, dimension],
        "visual.conv1.weight": [width, 3, patch_size, patch_size],
        **{f"visual.{ln}.{part}": [width] for ln in ("ln_pre", "ln_post") for part in PARTS},
        **{f"ln_final.{part}": [text_width] for part in PARTS},
        "token_embedding.weight": [49408, text_width],
        "positional_embedding": [77, text_width],
        "text_projection": [text_width, dimension],
        "logit_scale": [],
        **tower("visual.", width, layers),
        **tower("", text_width, 12),
    }
    with torch.device("meta"):
        config = open_clip.get_model_config(name)
        assert config is not None
        model = open_clip.CLIP(**config).requires_grad_(False)
        found = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
        assert found == expected
        require_reference_clip(model)
        adapters = VisionAdapters(model.visual, bottleneck=64, dropout=0.1).eval()
        tokens = adapters(model.visual, torch.empty(2, 3, 224, 224))
    assert tokens.shape == (2, (224 // patch_size) ** 2 + 1, dimension)


# --- The order of the vectors --------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["Boots.Ankle", "Boots.Mid-Calf", "Shoes.Flats", "Shoes_A"],
        ["Boots Ankle", "Shoes Flats", "Slippers"],
        ["old car", "older car"],
        [],
    ],
)
def test_orders_that_are_certain(names: list[str]) -> None:
    require_same_order("object", names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Shoe Tree", "Shoe-Bag"], "where object 'Shoe-Bag' may come before 'Shoe Tree'"),
        (["big toe", "bigger"], "where object 'bigger' may come before 'big toe'"),
        (["Zip Boots", "ankle"], "where object 'ankle' may come before 'Zip Boots'"),
    ],
)
def test_orders_that_are_not(names: list[str], message: str) -> None:
    assert names == sorted(names)
    with pytest.raises(ReferenceCheckpointError, match=message):
        require_same_order("object", names)


def test_uncertain_labels_are_refused(clip: Clip, params: TroikaTrain, saved: Any) -> None:
    pairs = [("a", "big toe"), ("b", "bigger"), ("b", "c")]
    labels = Vocabulary.of([*pairs, ("d", "c")], [True] * 4, ["train"] * 4, "the test")
    refusal(saved(), clip, labels, params, "object 'bigger' may come before 'big toe'")


def test_what_is_no_state_dict_is_refused(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, saved: Any
) -> None:
    with pytest.raises(TorchFileError, match=r"val_best\.pt holds a list, expected tensors"):
        convert_reference(saved(lambda state: [*state]), clip, vocabulary, params)
