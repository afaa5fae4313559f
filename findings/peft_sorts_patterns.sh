#!/usr/bin/env bash
# Package: peft 0.21.2, with torch 2.14.1.
# Expected: an adapter that is saved and loaded again gives the outputs it was trained with.
# Happens: of two expressions of alpha_pattern that match one module, the first one counts; but
#     adapter_config.json stores them sorted by name. Where "v_proj" stood before
#     "layers.0.self_attn.v_proj", the loaded layer has another scaling and gives other outputs,
#     without a warning. (Overlapping rank_pattern is sorted alike; there the shapes clash.)
set -euo pipefail
sed -n '/^#!/d; /^#/!q; s/^# *//p' "$0"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
python3 -m venv "$folder/venv"
export PATH="$folder/venv/bin:$PATH"
pip install --quiet peft==0.21.2 torch==2.14.1
cd "$folder"

python - <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.v_proj = nn.Linear(4, 4)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = Attention()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Layer(), Layer()])

    def forward(self, x):
        for layer in self.layers:
            x = x + layer.self_attn.v_proj(x)
        return x


def scalings(model):
    return [layer.self_attn.v_proj.scaling["default"] for layer in model.get_base_model().layers]


config = LoraConfig(
    target_modules=["v_proj"],
    r=2,
    init_lora_weights=False,  # random, so that the adapter does something
    alpha_pattern={"v_proj": 64, "layers.0.self_attn.v_proj": 4},
)
made = get_peft_model(Model(), config).eval()
made.save_pretrained("adapter")
loaded = PeftModel.from_pretrained(Model(), "adapter").eval()
with torch.no_grad():
    x = torch.ones(1, 4)
    before, after = made(x), loaded(x)

stored = json.loads(Path("adapter/adapter_config.json").read_text())["alpha_pattern"]
print("Seen: alpha_pattern given: ", dict(config.alpha_pattern))
print("      alpha_pattern stored:", stored)
print("      scaling of the two layers, before:", scalings(made), "loaded:", scalings(loaded))
print("      output before:", [round(value, 2) for value in before[0].tolist()])
print("      output loaded:", [round(value, 2) for value in after[0].tolist()])
same_weights = all(
    torch.equal(value, loaded.state_dict()[name]) for name, value in made.state_dict().items()
)
print("      all weights are the same:", same_weights)
if not (
    same_weights
    and scalings(made) == [32, 32]
    and scalings(loaded) == [2, 32]
    and not torch.allclose(before, after)
):
    sys.exit("CHANGED: this is no longer so.")
PYTHON
