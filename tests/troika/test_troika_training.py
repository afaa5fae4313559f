"""The training loop and what it leaves on disk."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from curve_files import curve_bytes, curve_rows
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from troika.training_run import (
    INDICES,
    PAIRS,
    STILL,
    VOCABULARY,
    make_params,
    new_model,
    normalizer,
    tiny_clip,
    train_data,
    val_data,
)

from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.compute.training.learning_curve import write_curve
from compositional_prompts.compute.training.training_run import TrainingError
from compositional_prompts.files.outputs import DamagedOutputError
from compositional_prompts.results.kept_models import copy_model
from compositional_prompts.troika.evaluation.czsl_metrics import czsl_metrics
from compositional_prompts.troika.evaluation.judging import World, judge
from compositional_prompts.troika.model.branch_scores import ScoreMix
from compositional_prompts.troika.model.model_folder import (
    CheckpointError,
    TrainedState,
    clip_fingerprint,
    load_model,
    save_model,
)
from compositional_prompts.troika.model.network import BranchLogits, Troika, TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.training import score_choice
from compositional_prompts.troika.training import troika_trainer as fitting
from compositional_prompts.troika.training.score_choice import (
    ScoreChoice,
    candidate_mixes,
    choose_score_weights,
)
from compositional_prompts.troika.training.troika_curve import TroikaEpoch
from compositional_prompts.troika.training.troika_trainer import (
    Labelled,
    TrainingOutcome,
    fit,
    training_batches,
    validate,
    weighted_loss,
)
from compositional_prompts.troika.zero_shot import ZeroShot


def test_overfits_a_small_set() -> None:
    clip = tiny_clip()
    params = make_params(epochs=40, augment=False, learning_rate=0.005, lr_step=100)
    data = train_data()
    model = new_model(clip, params)
    outcome = fit(model, data, val_data([]), normalizer(clip), params, seed=0)
    losses = [record.train_loss for record in outcome.records]
    assert losses[-1] < 0.2 * losses[0]
    assert validate(model, data, 8, normalizer(clip))["best_seen"] == 1.0


def test_the_same_seed_gives_the_same_weights() -> None:
    params = make_params()

    def run(seed: int) -> dict[str, torch.Tensor]:
        clip = tiny_clip()
        outcome = fit(
            new_model(clip, params), train_data(), val_data([0, 3]), normalizer(clip), params, seed
        )
        torch.rand(7)  # what happens to the global generator in between must not matter
        return dict(outcome.state.last)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first, again, other = run(5), run(5), run(6)
        torch.set_num_threads(1)  # parts take turns
        in_turn = run(5)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], in_turn[name]) for name in first)
    assert not torch.equal(first["traction.gain"], other["traction.gain"])


def test_every_epoch_trains_in_training_mode_and_validates_in_evaluation_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip = tiny_clip()
    params = make_params(epochs=3)
    model = new_model(clip, params)
    modes: list[tuple[bool, bool]] = []
    encode = model._image_features

    def spy(tokens: torch.Tensor) -> Any:
        parts = {part.training for name, part in model.named_modules() if name[:4] != "clip"}
        assert len(parts) == 1
        assert not model.clip.training
        modes.append((parts.pop(), torch.is_grad_enabled()))
        return encode(tokens)

    monkeypatch.setattr(model, "_image_features", spy)
    fit(model, train_data(), val_data([0, 1, 3]), normalizer(clip), params, seed=0)
    assert modes == ([(True, True)] * 3 + [(False, False)]) * 3


def test_each_image_once_an_epoch_and_no_batch_of_one() -> None:
    for images, size, sizes in ((9, 4, [4, 5]), (8, 4, [4, 4]), (3, 4, [3]), (10, 4, [4, 4, 2])):
        batches = training_batches(images, size, torch.Generator().manual_seed(1))
        assert [len(batch) for batch in batches] == sizes
        assert sorted(torch.cat(batches).tolist()) == list(range(images))


def test_loss_is_the_weighted_sum_over_the_branches() -> None:
    weights = {"composition": 0.5, "attribute": 2.0, "object": 3.0}
    params = make_params(loss_weights=weights)
    generator = torch.Generator().manual_seed(0)
    logits = BranchLogits(
        torch.randn(5, 3, generator=generator),
        torch.randn(5, 2, generator=generator),
        torch.randn(5, 2, generator=generator),
    )
    targets = torch.tensor([0, 2, 1, 1, 0])
    expected = 0.0
    for row, column in enumerate(targets.tolist()):
        attribute, name = INDICES[column].tolist()
        truths = {"composition": column, "attribute": attribute, "object": name}
        for branch, truth in truths.items():
            values = getattr(logits, branch)[row].double()
            expected += weights[branch] * float(values.exp().sum().log() - values[truth]) / 5
    assert float(weighted_loss(logits, targets, INDICES[:3], params)) == pytest.approx(expected)


def test_accumulated_gradients_are_those_of_the_whole_group() -> None:
    # Without dropout and batch norm, two half batches must step as one whole batch does.
    still = {**STILL, "augment": False, "epochs": 1}
    data = train_data(16)
    states = []
    for size, accumulation in ((16, 1), (8, 2), (8, 3)):
        clip = tiny_clip()
        params = make_params(batch_size=size, gradient_accumulation=accumulation, **still)
        model = new_model(clip, params)
        model.attribute_disentangler.norm = torch.nn.Identity()  # type: ignore[assignment]
        model.object_disentangler.norm = torch.nn.Identity()  # type: ignore[assignment]
        outcome = fit(model, data, val_data([]), normalizer(clip), params, seed=0)
        states.append(outcome.state.last["traction.layers.0.mlp.expand.weight"])
    torch.testing.assert_close(states[1], states[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(states[2], states[0], atol=2e-5, rtol=0)


def test_bfloat16_rounds_the_forward_pass_and_neither_logits_nor_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.dtype] = []
    loss = fitting.weighted_loss

    def spy(logits: BranchLogits, *others: Any) -> torch.Tensor:
        seen.extend(branch.dtype for branch in logits)
        return loss(logits, *others)

    monkeypatch.setattr(fitting, "weighted_loss", spy)
    outcomes = {}
    for precision in ("float32", "bfloat16"):
        clip = tiny_clip()
        params = make_params(precision=precision, augment=True, epochs=1)
        outcomes[precision] = fit(
            new_model(clip, params), train_data(), val_data([0, 3]), normalizer(clip), params, 0
        )
        assert {tensor.dtype for tensor in outcomes[precision].state.last.values()} == {
            torch.float32,
            torch.int64,
        }
    assert set(seen) == {torch.float32}
    exact, rounded = (outcome.records[0].train_loss for outcome in outcomes.values())
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.03)


def records_from(monkeypatch: pytest.MonkeyPatch, values: list[dict[str, float | None]]) -> None:
    """Let validation return given metrics, epoch by epoch."""
    remaining = iter(values)
    empty = dict.fromkeys(
        ("auc", "best_hm", "best_seen", "best_unseen", "attribute_accuracy", "object_accuracy")
    )
    monkeypatch.setattr(fitting, "validate", lambda *_: {**empty, **next(remaining)})


def test_best_epoch_is_the_first_with_the_highest_auc(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tiny_clip()
    params = make_params(epochs=9, early_stopping=2)
    records_from(monkeypatch, [{"auc": auc} for auc in (0.1, 0.3, 0.3, 0.2, 0.9)])
    outcome = fit(
        new_model(clip, params), train_data(), val_data([0, 3]), normalizer(clip), params, seed=0
    )
    assert outcome.selection == "val_auc"
    assert (outcome.state.best_epoch, outcome.state.epochs) == (2, 4)
    best, last = outcome.state.best["traction.gain"], outcome.state.last["traction.gain"]
    assert not torch.equal(best, last)


def test_without_unseen_validation_images_primitives_choose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip = tiny_clip()
    params = make_params(epochs=3)
    accuracies = [(0.9, 0.1), (0.5, 0.6), (1.0, 0.0)]
    records_from(
        monkeypatch, [{"attribute_accuracy": a, "object_accuracy": o} for a, o in accuracies]
    )
    outcome = fit(
        new_model(clip, params), train_data(), val_data([0, 1]), normalizer(clip), params, seed=0
    )
    assert (outcome.selection, outcome.state.best_epoch) == ("val_primitive_hm", 2)


def test_without_validation_images_the_last_epoch_is_kept(tmp_path: Path) -> None:
    clip = tiny_clip()
    params = make_params()
    model = new_model(clip, params)
    outcome = fit(model, train_data(), val_data([]), normalizer(clip), params, seed=0)
    assert (outcome.selection, outcome.state.best_epoch) == ("last_epoch", 2)
    assert outcome.records[0].val_attribute_accuracy is None
    write_curve(TroikaEpoch, outcome.records, tmp_path)
    validation = (field.name for field in fields(TroikaEpoch) if field.name.startswith("val_"))
    loss, *others = (curve_rows(tmp_path)[0][name] for name in ("train_loss", *validation))
    assert loss == str(round(outcome.records[0].train_loss, 4))
    assert set(others) == {""}


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        (0, {}, "troika_train.epochs: 0"),
        (1, {}, "There is one labelled training image"),
        (4, {"early_stopping": 1}, "early_stopping needs labelled validation images"),
        (4, {"learning_rate": 1e30}, "lower troika_train.learning_rate"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    images: int, changes: dict[str, object], message: str
) -> None:
    clip = tiny_clip()
    params = make_params().model_copy(update=changes)  # such a rate is no parameter either
    with pytest.raises(TrainingError, match=message):
        fit(
            new_model(clip, params),
            train_data(images),
            val_data([]),
            normalizer(clip),
            params,
            seed=0,
        )


@pytest.mark.parametrize(("rate", "nothing"), [(0.005, False), (1e-12, True), (1.0, True)])
def test_whether_anything_was_learnt_is_said(rate: float, nothing: bool) -> None:
    clip = tiny_clip()
    params = make_params(epochs=3, learning_rate=rate, lr_step=100, **STILL)
    model = new_model(clip, params)
    outcome = fit(model, train_data(), val_data([]), normalizer(clip), params, seed=0)
    if nothing:
        assert outcome.learnt_nothing is not None
        assert "and by chance 2.372" in outcome.learnt_nothing
    else:
        assert outcome.learnt_nothing is None


@pytest.mark.parametrize("name", ["best", "last"])
def test_weights_that_are_no_numbers_are_named(name: str, tmp_path: Path) -> None:
    clip = tiny_clip()
    directory, _ = saved_model(tmp_path, clip)
    path = directory / f"{name}.safetensors"
    tensors = load_file(path)
    tensors["traction.gain"].view(-1)[0] = torch.nan
    save_file(tensors, path)
    if name == "last":  # which only tells how the training ended
        assert load_model(directory, VOCABULARY, clip) is not None
    else:
        with pytest.raises(DamagedOutputError, match=r"best\.safetensors .*traction\.gain"):
            load_model(directory, VOCABULARY, clip)
    with pytest.raises(DamagedOutputError, match=rf"{name}\.safetensors .*traction\.gain"):
        copy_model(directory, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


# --- On disk --------------------------------------------------------------------------------------


def saved_model(tmp_path: Path, clip: Clip) -> tuple[Path, Troika]:
    params = make_params()
    model = new_model(clip, params)
    for tensor in model.trained_state().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor))
    state = TrainedState(model.trained_state(), model.trained_state(), best_epoch=2, epochs=3)
    directory = tmp_path / "troika"
    save_model(directory, VOCABULARY, clip, model.config, state)
    return directory, model


def test_only_trained_tensors_are_saved_and_they_come_back(tmp_path: Path) -> None:
    clip = tiny_clip()
    directory, model = saved_model(tmp_path, clip)
    names = set(load_file(directory / "best.safetensors"))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    statistics = {name for name in names if ".norm.running_" in name or "num_batches" in name}
    assert names == trained | statistics
    assert len(statistics) == 6
    document = json.loads((directory / "config.json").read_text())
    assert (document["trained"], document["best_epoch"], document["epochs"]) == (True, 2, 3)
    loaded = load_model(directory, VOCABULARY, tiny_clip())
    assert loaded is not None and not loaded.training
    assert loaded.config == model.config
    for name, tensor in model.trained_state().items():
        assert torch.equal(loaded.trained_state()[name], tensor), name


def test_an_untrained_model_has_no_tensors(tmp_path: Path) -> None:
    clip = tiny_clip()
    config = TroikaConfig.from_params(make_params())
    saved_model(tmp_path, clip)
    save_model(tmp_path / "troika", VOCABULARY, clip, config, None)
    assert [path.name for path in (tmp_path / "troika").iterdir()] == ["config.json"]
    assert load_model(tmp_path / "troika", VOCABULARY, clip) is None


def test_unseen_pairs_may_differ_but_no_seen_pair_or_word(tmp_path: Path) -> None:
    clip = tiny_clip()
    directory, _ = saved_model(tmp_path, clip)
    fewer = Vocabulary.of(PAIRS[:3], [True] * 3, ["train"] * 3, "the test")
    assert load_model(directory, fewer, clip) is not None
    unseen = Vocabulary.of(PAIRS, [True, True, False, False], ["train"] * 2 + ["val"] * 2, "x")
    with pytest.raises(CheckpointError, match=r"other seen pairs .* \['Wool_Boots'\]"):
        load_model(directory, unseen, clip)
    renamed = [*PAIRS[:3], ("Suede", "Heels")]
    with pytest.raises(CheckpointError, match=r"other attributes .*table \['Suede'\]"):
        load_model(directory, Vocabulary.of(renamed, [True] * 4, ["train"] * 4, "x"), clip)


@pytest.mark.parametrize("change", [{"seed": 9}, {"quick_gelu": True}])
def test_another_clip_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    directory, _ = saved_model(tmp_path, tiny_clip())
    with pytest.raises(CheckpointError, match="but the CLIP at hand is"):
        load_model(directory, VOCABULARY, tiny_clip(**change))


def test_the_fingerprint_is_that_of_every_weight() -> None:
    clip = tiny_clip()
    before = clip_fingerprint(clip.model)
    assert before == clip_fingerprint(tiny_clip().model)
    clip.model.get_parameter("text_projection")[3, 5] += 1e-3
    assert clip_fingerprint(clip.model) != before


def test_damaged_directories_are_refused_by_name(tmp_path: Path) -> None:
    clip = tiny_clip()
    directory, _ = saved_model(tmp_path, clip)
    path = directory / "best.safetensors"
    tensors = load_file(path)
    without = {name: tensor for name, tensor in tensors.items() if name != "traction.gain"}
    save_file(without | {"surplus": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"missing \['traction.gain'\], left over \['surp"):
        load_model(directory, VOCABULARY, clip)
    save_file(tensors | {"traction.gain": torch.zeros(7)}, path)
    with pytest.raises(CheckpointError, match=r"traction.gain is \[7\], expected \[32\]"):
        load_model(directory, VOCABULARY, clip)
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"format": 0}))
    with pytest.raises(CheckpointError, match="has format 0, expected 1"):
        load_model(directory, VOCABULARY, clip)
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_model(directory, VOCABULARY, clip)


def test_a_curve_has_a_file_a_figure_in_the_layout_of_dvclive(tmp_path: Path) -> None:
    write_curve(TroikaEpoch, [], tmp_path)
    empty = curve_bytes(tmp_path)
    assert empty["plots/metrics/val_auc.tsv"] == b"step\tval_auc\n"
    assert json.loads(empty["metrics.json"]) == {}
    record = TroikaEpoch(1, 0.123456, 0.5, 1.0, 1.0, 0.0, None, 0.25)
    write_curve(TroikaEpoch, [record], tmp_path)
    files = curve_bytes(tmp_path)
    assert files.keys() == empty.keys()
    assert files["plots/metrics/train_loss.tsv"] == b"step\ttrain_loss\n1\t0.1235\n"
    assert files["plots/metrics/val_attribute_accuracy.tsv"] == b"step\tval_attribute_accuracy\n"
    last = json.loads(files["metrics.json"])
    assert (last["step"], last["train_loss"], last["val_object_accuracy"]) == (1, 0.1235, 0.25)
    assert "val_attribute_accuracy" not in last


def test_the_curve_grows_while_training_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        "compositional_prompts.compute.training.training_run.write_curve",
        lambda kind, records, folder: seen.append(len(records)),
    )
    clip, params = tiny_clip(), make_params()
    model = new_model(clip, params)
    fit(model, train_data(), val_data([]), normalizer(clip), params, seed=0, curve=tmp_path)
    assert seen == list(range(params.epochs + 1))


# --- Weights of the score -------------------------------------------------------------------------


def in_float64(model: Troika, clip: Clip, data: Labelled) -> dict[str, NDArray[np.float64]]:
    """Each part of the score of every image and pair, by the model's own tensors."""
    pixel_values = normalizer(clip).to_pixel_values(data.pixels)
    texts = [f"a photo of {a} {o}".lower() for a, o in PAIRS]
    with torch.no_grad():
        logits = model.eval()(pixel_values, data.pairs)
        frozen, _ = clip.model.get_logits(pixel_values, clip.tokenizer(texts))  # type: ignore[operator]
    attributes, objects = (
        torch.softmax(one.double(), dim=1).numpy() for one in (logits.attribute, logits.object)
    )
    pairs = data.pairs.numpy()
    return {
        "composition": logits.composition.double().numpy(),
        "primitives": attributes[:, pairs[:, 0]] * objects[:, pairs[:, 1]],
        "zero_shot": frozen.double().numpy(),
    }


@pytest.fixture(scope="module")
def trained() -> tuple[Clip, Troika, TrainingOutcome]:
    clip, params = tiny_clip(), make_params(epochs=4, learning_rate=0.005)
    model = new_model(clip, params)
    data = val_data([0, 3, 1, 2, 3])
    return clip, model, fit(model, train_data(), data, normalizer(clip), params, seed=0)


def chosen(trained: tuple[Clip, Troika, TrainingOutcome], data: Labelled) -> ScoreChoice:
    clip, model, outcome = trained
    zero_shot = ZeroShot(clip, VOCABULARY, data.pairs, 2**20)
    best = outcome.state.best
    return choose_score_weights(model, best, data, zero_shot, "val_auc", 7, normalizer(clip))


def test_validation_chooses_the_weights_with_the_highest_auc(
    trained: tuple[Clip, Troika, TrainingOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_choice, "LEAST_IMAGES", 40)
    generator = np.random.default_rng(4)
    data = val_data(generator.integers(0, 4, 40).tolist())
    # Labels that no score explains, so that the weights matter.
    data = replace(data, columns=torch.from_numpy(generator.integers(0, 4, 40)))
    clip, model, outcome = trained
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0 if parameter.requires_grad else 0.0)  # to be replaced by the best
    choice = chosen(trained, data)
    parts = in_float64(model, clip, data)
    assert torch.equal(model.traction.gain.cpu(), outcome.state.best["traction.gain"])
    world = World.of(data.pairs, data.seen)
    aucs = {}
    for share in (0, 0.25, 0.5, 0.75, 1):
        for weight in (0, 0.5, 1, 2, 4, 8):
            scores = (1 - share) * parts["composition"] + share * parts["zero_shot"]
            scores = torch.from_numpy(scores + weight * parts["primitives"])
            auc = czsl_metrics(judge(scores, data.columns, world))["auc"]
            assert auc is not None
            aucs[1 - share, weight, share] = auc
    assert len({round(auc, 6) for auc in aucs.values()}) > 5
    assert choice.value == pytest.approx(max(aucs.values()), abs=1e-6)
    assert aucs[tuple(choice.mix)] == pytest.approx(choice.value, abs=1e-6)  # type: ignore[index]
    assert choice.value_fixed == pytest.approx(aucs[1, 1, 0], abs=1e-6)
    assert choice.chosen_by == "validation"
    assert choice.as_json()["val_auc"] == choice.value


def test_few_images_and_equal_ones_leave_the_fixed_weights(
    trained: tuple[Clip, Troika, TrainingOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = val_data([0, 3] * 49)
    assert chosen(trained, data) == ScoreChoice(ScoreMix(1, 1, 0), "fixed")
    assert chosen(trained, data).as_json() == {
        "chosen_by": "fixed", "composition": 1, "primitives": 1, "zero_shot": 0,
    }  # fmt: skip
    # One image of either kind: whatever the weights, no curve is better than that of the fixed.
    monkeypatch.setattr(score_choice, "LEAST_IMAGES", 1)
    monkeypatch.setattr(score_choice, "czsl_metrics", lambda _: {**EVERY, "auc": 0.5})
    assert chosen(trained, data).mix == ScoreMix(1, 1, 0)
    assert candidate_mixes(ScoreMix(1, 1, 0))[0] == ScoreMix(1, 1, 0)
    assert len(set(candidate_mixes(ScoreMix(1, 1, 0)))) == 30
    assert len(set(candidate_mixes(ScoreMix(2, 1, 0.1)))) == 31


EVERY = dict.fromkeys(("best_hm", "best_seen", "best_unseen"), 0.5) | dict.fromkeys(
    ("attribute_accuracy", "object_accuracy"), 0.5
)


def test_a_score_that_takes_the_frozen_clip_needs_its_logits() -> None:
    clip = tiny_clip()
    weights = {"chosen_by": "fixed", "composition": 0, "primitives": 0, "zero_shot": 1}
    params = make_params(epochs=1, score_weights=weights)
    model = new_model(clip, params)
    data = val_data([0, 3, 1])
    with pytest.raises(ValueError, match="takes 1 of the zero-shot logit"):
        validate(model, data, 8, normalizer(clip))
    zero_shot = ZeroShot(clip, VOCABULARY, data.pairs, 2**20)
    outcome = fit(model, train_data(), data, normalizer(clip), params, 0, zero_shot=zero_shot)
    frozen = torch.from_numpy(in_float64(model, clip, data)["zero_shot"])
    expected = czsl_metrics(judge(frozen, data.columns, World.of(data.pairs, data.seen)))
    assert outcome.records[0].val_auc == expected["auc"]


def test_weights_that_are_all_zero_are_refused() -> None:
    weights = {"chosen_by": "fixed", "composition": 0, "primitives": 0, "zero_shot": 0}
    with pytest.raises(ValueError, match="every pair would score the same"):
        make_params(score_weights=weights)
