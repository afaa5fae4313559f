#!/usr/bin/env bash
# Packages: dvc 3.67.1 with ruamel.yaml 0.19.1, which pip chooses.
# Expected: DVC reads dvc.lock, dvc.yaml and params.yaml by libyaml, as it did for years: its YAML
#     library came with a parser in C.
# Happens: since 0.19 ruamel.yaml comes without it, and DVC does not ask for it. All that DVC reads is
#     parsed in Python, ten times slower; params.yaml once a stage, so that `dvc repro` with nothing
#     to do spends most of its seconds there. Installing ruamel.yaml.clib beside it is enough.
set -euo pipefail
sed -n '/^#!/d; /^#/!q; s/^# *//p' "$0"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
export DVC_NO_ANALYTICS=1
python3 -m venv "$folder/venv"
export PATH="$folder/venv/bin:$PATH"
pip install --quiet dvc==3.67.1 ruamel.yaml==0.19.1
cd "$folder"

cat > seen.py <<'PYTHON'
"""What DVC calls in Python to parse a lock of 40 stages, and how much of it in the scanner."""

import sys
from collections import Counter

from dvc.utils.serialize import parse_yaml

entries = "".join(f"    - path: data/{n}.txt\n      hash: md5\n      md5: {n:032x}\n" for n in range(30))
stages = "".join(f"  stage{n}:\n    cmd: python stage.py\n    deps:\n{entries}" for n in range(40))
calls = Counter()


def count(frame, event, _):
    if event == "call":
        calls[frame.f_globals.get("__name__", "")] += 1


text = f"schema: '2.0'\nstages:\n{stages}"
sys.setprofile(count)
parsed = parse_yaml(text, "dvc.lock")
sys.setprofile(None)
assert len(parsed["stages"]) == 40
print(calls["ruamel.yaml.scanner"], calls.total())
PYTHON

read -r scanned calls < <(python seen.py)
echo "Seen: as installed, $calls calls of Python functions, $scanned of them in ruamel.yaml's scanner."
pip install --quiet ruamel.yaml.clib==0.2.15
read -r scanned_by_c calls_by_c < <(python seen.py)
echo "Seen: with ruamel.yaml.clib, $calls_by_c calls, $scanned_by_c of them in the scanner."
if [ "$scanned" -lt 100000 ] || [ "$scanned_by_c" -gt 1000 ] || [ $((calls_by_c * 4)) -gt "$calls" ]; then
    echo "CHANGED: this is no longer so."
    exit 1
fi
