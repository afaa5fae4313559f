"""Drift of a made-up catalogue, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from growth.grown_catalogue import ORIGIN, Photo, write_kept, write_tables

from compositional_prompts.growth.confidence import unsure_below
from compositional_prompts.growth.drift import DriftPaths, measure_drift
from compositional_prompts.results.kept_models import (
    ORIGIN_FILE,
    KeptModelError,
    read_origin,
    write_origin,
)


def paths(root: Path) -> DriftPaths:
    data = root / "data"
    return DriftPaths(
        data / "catalog", data / "prompts/original.parquet", data / "prompts/enhanced.parquet",
        data / "embeddings/words.parquet", root / "troika", root / "captioner",
    )  # fmt: skip


def test_stages_that_train_have_no_drift(tmp_path: Path) -> None:
    write_tables(tmp_path, [Photo("one")])
    for name in ("troika", "captioner"):
        (tmp_path / name).write_text("It trains.")
    found, photos = measure_drift(paths(tmp_path))
    assert photos == 0
    assert found == {"troika": {"kept": False}, "captioner": {"kept": False}, "warnings": []}


def test_new_photos_stand_beside_old_ones(tmp_path: Path) -> None:
    photos = [
        Photo("trained-1", probability=0.4),
        Photo("trained-2", color=None),
        Photo("held", split="val", probability=0.7, lead=0.2),
        Photo("new-1", "Velvet", "Boots", probability=0.69, lead=0.1),
        Photo("new-2", "Canvas", "Sandals", probability=0.71, color="teal", lead=0.21),
        Photo("new-3", None, None, probability=0.7, color=None, lead=0.9),
    ]
    write_tables(tmp_path, photos, ("red", "blue", "teal"))
    origin = replace(ORIGIN, unsure_below={"pair": float(np.float32(0.7))})
    write_kept(tmp_path / "troika", origin, {"trained-1": True, "trained-2": True, "held": False})
    words = {"color": ["red", "blue"]}
    captioner = replace(ORIGIN, words=words, unsure_below={"color": float(np.float32(0.2))})
    write_kept(
        tmp_path / "captioner",
        captioner,
        {"trained-1": True, "trained-2": True, "held": False, "gone": True},
    )

    found, _ = measure_drift(paths(tmp_path))
    assert found["troika"] == {
        "kept": True,
        "photos": {"trained": 2, "held_out": 1, "new": 3, "gone": 0},
        "unsure": {
            "pair": {
                "trained": {"photos": 1, "share": 0.5},
                "held_out": {"photos": 0, "share": 0.0},
                "new": {"photos": 1, "share": pytest.approx(1 / 3)},
            }
        },
        "unknown": {"attribute": {"Velvet": 1}, "pair": {"Canvas_Sandals": 1}},
    }
    assert found["captioner"]["photos"] == {"trained": 2, "held_out": 1, "new": 3, "gone": 1}
    # A word below the threshold is unsure, whatever its lead.
    assert found["captioner"]["unsure"]["color"] == {
        "trained": {"photos": 1, "share": 0.5},
        "held_out": {"photos": 0, "share": 0.0},
        "new": {"photos": 2, "share": pytest.approx(2 / 3)},
    }
    assert found["captioner"]["unknown"]["color"] == {"teal": 1}
    assert len(found["warnings"]) == 2  # the captioner lacks Velvet too: it is said once
    assert "teal" in found["warnings"][1] and "Velvet" not in found["warnings"][1]
    assert "Velvet (1 photo)" in found["warnings"][0]
    assert "troika_train.mode: train" in found["warnings"][0]
    assert measure_drift(paths(tmp_path)) == (found, 6)


@pytest.mark.parametrize(("new", "warned"), [(29, False), (30, True)])
def test_a_share_of_few_photos_warns_of_nothing(tmp_path: Path, new: int, warned: bool) -> None:
    photos = [Photo("held", split="test", probability=0.9)]
    photos += [Photo(f"new-{number}", probability=0.1) for number in range(new)]
    write_tables(tmp_path, photos)
    write_kept(tmp_path / "troika", replace(ORIGIN, unsure_below={"pair": 0.5}), {"held": False})
    (tmp_path / "captioner").write_text("It trains.")
    found, _ = measure_drift(paths(tmp_path))
    assert found["captioner"] == {"kept": False}
    assert bool(found["warnings"]) == warned
    assert all("100% of the new photos" in sentence for sentence in found["warnings"])


def test_more_pairs_to_choose_from_are_no_drift(tmp_path: Path) -> None:
    """They lower the probability of every photo, old and new."""
    rng = np.random.default_rng(11)
    photos = [
        Photo(f"{kind}-{number}", split="val", probability=float(rng.random()) / 2)
        for kind in ("held", "new")
        for number in range(400)
    ]
    write_tables(tmp_path, photos)
    then = replace(ORIGIN, unsure_below={"pair": 0.9})
    held = {photo.name: False for photo in photos if photo.name.startswith("held")}
    write_kept(tmp_path / "troika", then, held)
    write_kept(tmp_path / "captioner", replace(ORIGIN, words={"color": ["red"]}), held)
    found, _ = measure_drift(paths(tmp_path))
    unsure = found["troika"]["unsure"]["pair"]
    assert unsure["held_out"]["share"] == 0.1
    assert unsure["new"]["share"] == pytest.approx(0.1, abs=0.05)
    assert found["warnings"] == []


def test_nothing_is_left_of_what_it_was_trained_with(tmp_path: Path) -> None:
    write_tables(tmp_path, [Photo("new")])
    write_kept(tmp_path / "troika", replace(ORIGIN, unsure_below={"pair": 0.5}), {"gone": True})
    write_kept(tmp_path / "captioner", ORIGIN, {})
    found, _ = measure_drift(paths(tmp_path))
    assert found["troika"]["photos"] == {"trained": 0, "held_out": 0, "new": 1, "gone": 1}
    assert found["troika"]["unsure"]["pair"]["trained"] == {"photos": 0, "share": None}
    assert found["captioner"]["unsure"] == {}


def test_a_tenth_of_what_was_held_out_is_below() -> None:
    rng = np.random.default_rng(3)
    values = rng.random(5000, dtype=np.float32)
    held_out = rng.random(5000) < 0.3
    below = unsure_below({"pair": values}, held_out)["pair"]
    assert (values[held_out] < below).mean() == pytest.approx(0.1, abs=1e-3)
    # Without any held out, all count; what has no number has no bound.
    everything = unsure_below({"pair": values}, np.zeros(5000, bool))["pair"]
    assert (values < everything).mean() == pytest.approx(0.1, abs=1e-3)
    nothing: dict[str, Any] = {"pair": values[:0], "color": np.full(3, -np.inf, np.float32)}
    assert unsure_below({"color": nothing["color"]}, np.ones(3, bool)) == {}
    assert unsure_below({"pair": nothing["pair"]}, np.ones(0, bool)) == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "kept": "x"}', "\xff"])
def test_a_damaged_origin_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / ORIGIN_FILE).write_text(text)
    with pytest.raises(KeptModelError, match=r"origin\.json does not say .+dvc pull"):
        read_origin(tmp_path)


def test_an_origin_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_origin(ORIGIN, tmp_path)
    assert read_origin(tmp_path) == ORIGIN
    # Metrics are rounded to 4 decimals, which would make this one 0.
    assert ORIGIN.metrics()["params"] == {"learning_rate": "5e-06"}
