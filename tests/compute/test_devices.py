"""Which device a stage computes on; no GPU is needed to ask."""

from __future__ import annotations

import pytest
import torch

from compositional_prompts.compute.devices import LOCAL_RANK, resolve_device


@pytest.mark.parametrize(
    ("name", "gpu", "wanted"),
    [
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cuda", True, "cuda"),
    ],
)
def test_the_device_of_a_process(
    name: str, gpu: bool, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.delenv(LOCAL_RANK, raising=False)
    assert resolve_device(name) == torch.device(wanted)
    monkeypatch.setenv(LOCAL_RANK, "3")
    assert resolve_device(name) == torch.device("cpu" if wanted == "cpu" else "cuda:3")


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"base\.device is cuda, but torch sees no GPU"):
        resolve_device("cuda")
