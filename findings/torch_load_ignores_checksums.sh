#!/usr/bin/env bash
# Package: torch 2.14.1.
# Expected: torch.save writes a checksum of every tensor (CRC-32, as ZIP has it), and torch.load
#     refuses a file in which a bit of a tensor has changed on disk or on its way.
# Happens: torch.load never compares the checksums. It gives the changed number back without a
#     warning; Python's zipfile names the damaged tensor at once.
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
import struct
import sys
import zipfile
from pathlib import Path

import torch

path = Path("weights.pt")
torch.save({"weight": torch.tensor([1.0, 2.0, 3.0])}, path)
content = bytearray(path.read_bytes())
place = content.index(struct.pack("<3f", 1, 2, 3)) + 11  # the exponent of 3.0
content[place] ^= 0x04
path.write_bytes(content)

with zipfile.ZipFile(path) as archive:
    damaged = archive.testzip()
loaded = torch.load(path, weights_only=True)["weight"].tolist()
print("Seen: checksums written:", torch.serialization.get_crc32_options())
print("      saved:  [1.0, 2.0, 3.0], then one bit is turned")
print("      loaded:", loaded)
print("      zipfile's testzip says damaged:", damaged)
if not (loaded[:2] == [1, 2] and loaded[2] != 3 and damaged and damaged.endswith("data/0")):
    sys.exit("CHANGED: this is no longer so.")
PYTHON
