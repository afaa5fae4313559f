"""Checkpoints of the authors' implementation: the same numbers, and nothing taken on trust."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch
import yaml
from torch import Tensor
from troika.numpy_forward import Architecture, branch_logits, float64, pair_scores

from compositional_prompts.__main__ import main
from compositional_prompts.catalog.splitting.split_tables import PAIRS
from compositional_prompts.clip.open_clip_model import CONFIG_FILE, Clip, load_clip, save_clip
from compositional_prompts.compute.torch_files import TorchFileError
from compositional_prompts.files.tables import write_table
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.troika.authors.authors_checkpoint import (
    ReferenceCheckpointError,
    convert_reference,
    import_reference,
    require_reference_clip,
    require_same_order,
)
from compositional_prompts.troika.model.model_folder import CheckpointError, load_model
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.model.vision_adapters import VisionAdapters
from compositional_prompts.troika.parameters import TroikaTrain

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
State = dict[str, Tensor]
PARTS = ("weight", "bias")

# Two heads of 64 in the vision tower and in the traction, one in the text tower.
WIDTH, TEXT_WIDTH, DIMENSION, LAYERS, BOTTLENECK, TRACTION = 128, 64, 128, 2, 5, 3
MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": DIMENSION,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 16,
        "layers": LAYERS,
        "width": WIDTH,
        "patch_size": 8,
        "head_width": 64,
    },
    "text_cfg": {
        "context_length": 77,
        "width": TEXT_WIDTH,
        "heads": 1,
        "layers": 2,
        "vocab_size": 49408,
    },
}
PAIR_ROWS = [
    ("Wool", "Slippers", True, "train"),
    ("Canvas", "Shoes.Flats", True, "train"),
    ("Canvas", "Boots.Mid-Calf", False, "test"),
    ("Faux.Leather", "Slippers", True, "train"),
]
# How the authors' data set sorts what the files list.
ATTRIBUTES = ["Canvas", "Faux.Leather", "Wool"]
OBJECTS = ["Boots.Mid-Calf", "Shoes.Flats", "Slippers"]
AUTHORS_PAIRS = np.array([[2, 2], [0, 1], [0, 0], [1, 2]])


def build_clip(config: dict[str, Any]) -> Any:
    torch.manual_seed(7)
    model = open_clip.CLIP(**deepcopy(config))
    for name, parameter in model.named_parameters():
        if parameter.dim() > 0:
            torch.nn.init.normal_(parameter, std=0.1)
            if "ln_" in name and name.endswith("weight"):
                parameter.data.add_(1)
    model.logit_scale.data.fill_(4.6052)
    return model


def write_clip(directory: Path, config: dict[str, Any]) -> Path:
    model = build_clip(config)
    settings = {
        "size": (16, 16), "mode": "RGB", "mean": (0.5,) * 3, "std": (0.25,) * 3,
        "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0,
    }  # fmt: skip
    open_clip.set_model_preprocess_cfg(model, settings)
    directory.mkdir(parents=True)
    save_clip(model, config, directory)
    return directory


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "troika_clip", MODEL_CONFIG)


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> Clip:
    return load_clip(clip_folder, CPU)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    pairs = [(attribute, name) for attribute, name, _, _ in PAIR_ROWS]
    seen, splits = [row[2] for row in PAIR_ROWS], [row[3] for row in PAIR_ROWS]
    return Vocabulary.of(pairs, seen, splits, "the test")


@pytest.fixture(scope="module")
def params() -> TroikaTrain:
    shipped, _ = read_params(ROOT / "params.yaml", TroikaTrain)
    return shipped.model_copy(update={"adapter_dim": BOTTLENECK, "traction_layers": TRACTION})


def trained_shapes(words: int) -> dict[str, list[int]]:
    """The authors' names of what they train, with shapes."""
    d = DIMENSION
    shapes: dict[str, list[int]] = {
        "soft_att_obj": [words, TEXT_WIDTH],
        "comp_ctx_vectors": [3, TEXT_WIDTH],
        "attr_ctx_vectors": [3, TEXT_WIDTH],
        "obj_ctx_vectors": [3, TEXT_WIDTH],
        "lamda": [d],
        "patch_norm.weight": [d],
        "patch_norm.bias": [d],
    }
    for index in range(2 * LAYERS):
        name = f"additional_visual_params.{index}"
        shapes[f"{name}.down_proj.weight"] = [BOTTLENECK, WIDTH]
        shapes[f"{name}.down_proj.bias"] = [BOTTLENECK]
        shapes[f"{name}.up_proj.weight"] = [WIDTH, BOTTLENECK]
        shapes[f"{name}.up_proj.bias"] = [WIDTH]
    for primitive in ("attr", "obj"):
        shapes[f"{primitive}_disentangler.fc1.weight"] = [d, d]
        shapes[f"{primitive}_disentangler.fc1.bias"] = [d]
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{primitive}_disentangler.bn1_fc.{part}"] = [d]
        shapes[f"{primitive}_disentangler.bn1_fc.num_batches_tracked"] = []
    for layer in range(TRACTION):
        for projection in ("q_proj", "k_proj", "v_proj", "proj"):
            shapes[f"cmt.{layer}.cross_attn.{projection}.weight"] = [d, d]
        shapes[f"cmt.{layer}.cross_attn.proj.bias"] = [d]
        shapes[f"cmt.{layer}.norm.weight"] = [d]
        shapes[f"cmt.{layer}.norm.bias"] = [d]
        shapes[f"cmt.{layer}.mlp.0.weight"] = [4 * d, d]
        shapes[f"cmt.{layer}.mlp.0.bias"] = [4 * d]
        shapes[f"cmt.{layer}.mlp.3.weight"] = [d, 4 * d]
        shapes[f"cmt.{layer}.mlp.3.bias"] = [d]
    return shapes


def random_tensor(name: str, shape: list[int], generator: torch.Generator) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(2700)
    noise = torch.randn(shape, generator=generator)
    if name.endswith("running_var"):
        return noise.square() + 0.1
    if len(shape) == 2:
        return noise * 0.3 if name.endswith("vectors") or name == "soft_att_obj" else noise * 0.1
    return 1 + noise * 0.1 if name.endswith("weight") else noise * 0.2


def authors_state(clip: Clip, seed: int, words: int = 6) -> State:
    """A state dict as theirs is: what is trained, CLIP cut to 8 positions, the text tower twice."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: random_tensor(name, shape, generator) for name, shape in trained_shapes(words).items()
    }
    for name, tensor in clip.model.state_dict().items():
        frozen = tensor[:8] if name == "positional_embedding" else tensor
        state[f"clip.{name}"] = frozen
        if not name.startswith("visual.") and name != "logit_scale":
            state[f"text_encoder.{name}"] = frozen
    return state


@pytest.fixture(scope="module")
def state(clip: Clip) -> State:
    return authors_state(clip, seed=3)


@pytest.fixture
def saved(state: State, tmp_path: Path) -> Callable[..., Path]:
    """Writes the state dict after a change of it."""

    def save(change: Callable[[State], Any] | None = None) -> Path:
        changed = dict(state)
        replacement = None if change is None else change(changed)
        path = tmp_path / "val_best.pt"
        torch.save(changed if replacement is None else replacement, path)
        return path

    return save


# --- The same numbers ----------------------------------------------------------------------------


def test_logits_and_scores_are_the_authors(
    clip_folder: Path, vocabulary: Vocabulary, params: TroikaTrain, tmp_path: Path
) -> None:
    clip = load_clip(clip_folder, CPU)
    weights = authors_state(clip, seed=int.from_bytes(os.urandom(4), "little"))
    torch.save(weights, tmp_path / "val_best.pt")
    pairs_table = tmp_path / "pairs.parquet"
    write_pairs(pairs_table)
    model_folder, metrics = tmp_path / "troika", tmp_path / "metrics"
    import_reference(
        tmp_path / "val_best.pt", clip_folder, pairs_table, model_folder, metrics, params
    )

    model = load_model(model_folder, Vocabulary.read(pairs_table), clip)
    assert model is not None
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
    model = convert_reference(saved(), clip, vocabulary, params).model
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

    model = convert_reference(saved(without_doubles), clip, vocabulary, params).model
    torch.testing.assert_close(model.traction.gain.detach(), state["lamda"])


def test_half_precision_is_widened(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, state: State, saved: Any
) -> None:
    def halved(state: State) -> State:
        return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}

    converted = convert_reference(saved(halved), clip, vocabulary, params)
    model = converted.model
    assert converted.rounded == len(clip.model.state_dict())
    assert convert_reference(saved(), clip, vocabulary, params).rounded == 0
    for name, tensor in model.trained_state().items():
        whole = name.endswith("num_batches_tracked")
        assert tensor.dtype == (torch.int64 if whole else torch.float32), name
    gain = model.traction.gain.detach()
    assert torch.equal(gain, state["lamda"].half().float())
    assert not torch.equal(gain, state["lamda"])
    tracked = model.attribute_disentangler.norm.get_buffer("num_batches_tracked")
    assert int(tracked) == 2700


def test_shapes_overrule_the_parameters(
    clip: Clip, vocabulary: Vocabulary, params: TroikaTrain, saved: Any
) -> None:
    other = params.model_copy(
        update={"adapter_dim": 64, "traction_layers": 2, "context_length": 12}
    )
    converted = convert_reference(saved(), clip, vocabulary, other)
    assert converted.differences == {
        "troika_train.adapter_dim": (BOTTLENECK, 64),
        "troika_train.traction_layers": (TRACTION, 2),
        "troika_train.context_length": (8, 12),
    }
    assert converted.model.config.context_length == 8
    assert converted.model.config.attribute_dropout == params.attribute_dropout


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

    refusal(saved(change), clip, vocabulary, params, "cmt.2.norm.bias has values that are not fin")


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


@pytest.mark.parametrize(
    ("positions", "message"),
    [(6, "6 positions are too few for a context of 3"), (78, "has 78 positions, but the CLIP at")],
)
def test_context_lengths_that_cannot_be(
    positions: int,
    message: str,
    clip: Clip,
    vocabulary: Vocabulary,
    params: TroikaTrain,
    saved: Any,
) -> None:
    def change(state: State) -> None:
        state["clip.positional_embedding"] = torch.zeros(positions, TEXT_WIDTH)

    refusal(saved(change), clip, vocabulary, params, message)


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


# --- The command ---------------------------------------------------------------------------------


def write_pairs(path: Path) -> None:
    rows = [
        {"attribute": attribute, "object": name, "seen": seen, "split": split, "images": 1}
        for attribute, name, seen, split in PAIR_ROWS
    ]
    write_table(pa.Table.from_pylist(rows, schema=PAIRS), path, PAIRS)


def run_command(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("sys.argv", ["compositional-prompts", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_command_writes_what_the_stage_would(
    clip_folder: Path,
    saved: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, model, metrics = saved(), tmp_path / "models" / "troika", tmp_path / "metrics"
    write_pairs(tmp_path / "pairs.parquet")
    model.mkdir(parents=True)
    (model / "leftover").write_text("of an earlier training")
    code = run_command(
        *("import-troika", path, "--clip", clip_folder, "--pairs", tmp_path / "pairs.parquet"),
        *("--model", model, "--metrics", metrics, "--params", ROOT / "params.yaml"),
        monkeypatch=monkeypatch,
    )
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    assert "dvc commit -f troika_train\n  dvc repro troika_predict" in printed.out
    assert "3 attributes, in the order Canvas ... Wool" in printed.out
    assert "troika_train.adapter_dim is 5 in the checkpoint and 64" in printed.out
    names = {file.name for file in model.iterdir()}
    assert names == {"config.json", "best.safetensors", "last.safetensors"}
    assert (model / "best.safetensors").read_bytes() == (model / "last.safetensors").read_bytes()

    written = {file.relative_to(metrics) for file in metrics.rglob("*.*")}
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["troika_train"]
    recorded = [*stage["metrics"], *stage["plots"]]
    assert written == {Path(next(iter(entry))).relative_to("metrics") for entry in recorded}
    document = json.loads((metrics / "troika_train.json").read_text())
    frozen = sum(p.numel() for p in load_clip(clip_folder, CPU).model.parameters())
    trained = sum(
        int(np.prod(shape)) for name, shape in trained_shapes(6).items() if "bn1_fc." not in name
    )
    trained += 4 * DIMENSION  # weight and bias of both batch norms; statistics are no parameters
    assert document["parameters"] == {"total": frozen + trained, "trainable": trained}
    assert (metrics / "plots" / "troika.csv").read_text().count("\n") == 1


def test_nothing_is_written_when_it_fails(
    clip_folder: Path,
    saved: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(tmp_path / "pairs.parquet")
    path = saved(lambda state: {**state, "extra": torch.zeros(1)})
    before = set(tmp_path.rglob("*"))
    code = run_command(
        *("import-troika", path, "--clip", clip_folder, "--pairs", tmp_path / "pairs.parquet"),
        *("--model", tmp_path / "troika", "--metrics", tmp_path / "metrics"),
        *("--params", ROOT / "params.yaml"),
        monkeypatch=monkeypatch,
    )
    assert code == 2
    assert "left over (1): extra" in capsys.readouterr().err
    assert set(tmp_path.rglob("*")) == before


def test_what_the_command_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_command(
        *("import-troika", tmp_path / "val_best.pt", "--clip", tmp_path / "clip"),
        *("--pairs", tmp_path / "pairs.parquet", "--params", ROOT / "params.yaml"),
        monkeypatch=monkeypatch,
    )
    error = capsys.readouterr().err
    assert code == 2
    assert f"{tmp_path / 'clip' / CONFIG_FILE} is missing." in error
    assert f"{tmp_path / 'pairs.parquet'} is missing." in error


# --- What was imported belongs to its CLIP and its labels ----------------------------------------


def test_an_imported_model_refuses_others(
    clip_folder: Path, params: TroikaTrain, saved: Any, tmp_path: Path
) -> None:
    write_pairs(tmp_path / "pairs.parquet")
    model = tmp_path / "troika"
    arguments = (clip_folder, tmp_path / "pairs.parquet", model, tmp_path / "metrics", params)
    import_reference(saved(), *arguments)
    labels = Vocabulary.read(tmp_path / "pairs.parquet")
    other = load_clip(clip_folder, CPU)
    other.model.logit_scale.data.add_(1e-3)
    with pytest.raises(CheckpointError, match="was trained on the CLIP"):
        load_model(model, labels, other)
    renamed = Vocabulary.of(
        [(a.replace("Wool", "Silk"), o) for a, o in labels.pairs], labels.seen, labels.splits, ""
    )
    message = r"other attributes .+ only in the model \['Wool'\], only in the table \['Silk'\]"
    with pytest.raises(CheckpointError, match=message):
        load_model(model, renamed, load_clip(clip_folder, CPU))
