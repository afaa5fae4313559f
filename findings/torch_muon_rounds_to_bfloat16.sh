#!/usr/bin/env bash
# Package: torch 2.14.1.
# Expected: torch.optim.Muon steps a float64 (or float32) parameter in the parameter's own precision,
#     as the other optimizers of torch do; its documentation names no other.
# Happens: whatever the precision, the orthogonalised step is rounded to bfloat16, eight bits. Nothing
#     says so. On a processor that only imitates bfloat16 this also makes the step many times slower.
set -euo pipefail
sed -n '/^#!/d; /^#/!q; s/^# *//p' "$0"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
python3 -m venv "$folder/venv"
export PATH="$folder/venv/bin:$PATH"
pip install --quiet torch==2.14.1
cd "$folder"

python -W ignore::UserWarning - <<'PYTHON'
import sys

import torch

torch.manual_seed(0)
size = 64
gradient = torch.randn(size, size, dtype=torch.float64)


def step(optimizer, **settings):
    """How far one step from zero moves a float64 matrix."""
    matrix = torch.nn.Parameter(torch.zeros(size, size, dtype=torch.float64))
    matrix.grad = gradient.clone()
    optimizer([matrix], lr=1.0, **settings).step()
    return matrix.detach()


def of_eight_bits(moved):
    """Share of the numbers that bfloat16 holds exactly."""
    return (moved.bfloat16().double() == moved).double().mean().item()


muon = step(torch.optim.Muon, weight_decay=0, adjust_lr_fn="original")
sgd = step(torch.optim.SGD)
print("Seen: a step of", muon.dtype, "by SGD: share of numbers of eight bits", of_eight_bits(sgd))
print("      by Muon:", of_eight_bits(muon))
mentioned = "bfloat16" in (torch.optim.Muon.__doc__ or "")
print("      its documentation names bfloat16:", mentioned)
if not (of_eight_bits(muon) == 1 and of_eight_bits(sgd) < 0.1 and not mentioned):
    sys.exit("CHANGED: this is no longer so.")
PYTHON
