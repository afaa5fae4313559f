"""What the import of open_clip leaves out, and how models that need it get it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from compositional_prompts.clip.open_clip_model import CONFIG_FILE

ROOT = Path(__file__).parents[2]
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
IMAGE = {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1}
TIMM = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "image_size": 32}
BERT = {
    "hf_model_pretrained": False, "hf_pooler_type": "mean_pooler", "context_length": 8,
    "hf_proj_type": "linear", "hf_tokenizer_name": "",
}  # fmt: skip

# Plain open_clip in a process of its own: a random model, written, and what it computes.
WRITE = """
import json, sys, torch, open_clip
from safetensors.torch import save_file
from transformers import BertConfig
folder, call = sys.argv[1], sys.argv[2]
BertConfig(
    vocab_size=100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
).save_pretrained(f"{folder}/bert")
config = json.load(open(f"{folder}/open_clip_config.json"))["model_cfg"]
kind = open_clip.CustomTextCLIP if "hf_model_name" in config["text_cfg"] else open_clip.CLIP
model = kind(**config).eval()
tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
save_file(tensors, f"{folder}/open_clip_model.safetensors")
with torch.inference_mode():
    torch.save(eval(call), f"{folder}/expected.pt")
"""

# The same by our loader, where open_clip was imported without the libraries of the towers.
LOAD = """
import sys, torch
from pathlib import Path
from compositional_prompts.clip import open_clip_model
assert not {"timm", "transformers"} & set(sys.modules)
open_clip_model.open_clip.get_tokenizer = lambda source: None  # a BERT's lies on the hub
folder, call = sys.argv[1], sys.argv[2]
model = open_clip_model.load_clip(Path(folder), torch.device("cpu")).model
with torch.inference_mode():
    torch.save(eval(call), f"{folder}/found.pt")
"""


def python(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("vision", "text", "call"),
    [
        (IMAGE, BERT, "model.encode_text(torch.arange(1, 17).view(2, 8))"),
        (TIMM, TEXT, "model.encode_image(torch.linspace(-1, 1, 6144).view(2, 3, 32, 32))"),
    ],
)
def test_towers_of_other_libraries_get_them(
    tmp_path: Path, vision: dict[str, Any], text: dict[str, Any], call: str
) -> None:
    if text is BERT:
        text = {**BERT, "hf_model_name": str(tmp_path / "bert")}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / CONFIG_FILE).write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    python(WRITE, str(tmp_path), call)
    python(LOAD, str(tmp_path), call)
    found, expected = (torch.load(tmp_path / f"{name}.pt") for name in ("found", "expected"))
    assert expected.abs().sum() > 0
    torch.testing.assert_close(found, expected)


def test_the_compiler_is_there_when_it_is_asked_for() -> None:
    script = """
import sys
from compositional_prompts.clip import lean_open_clip
assert "torch._dynamo" not in sys.modules
from torchvision.ops import roi_align
found = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
import torch._dynamo.utils
print(found == torch._dynamo.utils.is_compile_supported("cpu"))
import torch
print(float(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(()))))
"""
    assert python(script) == "True\n2.0\n"
