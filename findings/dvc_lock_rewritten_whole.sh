#!/usr/bin/env bash
# Packages: dvc 3.67.1 with ruamel.yaml 0.19.1 and ruamel.yaml.clib 0.2.15.
# Expected: when a stage has run, DVC adds what it recorded of that stage to dvc.lock, at a cost that the
#     stage decides; or, as it has the C parser of its YAML library at hand, reads the rest by it.
# Happens: after each stage that ran it parses all of dvc.lock by a round trip in Python, which keeps comments that
#     no lock has, and writes all of it anew: the C parser is not used here. One stage's record takes time in
#     proportion to the records of all the others, and a pipeline time in the square of its stages.
set -euo pipefail
sed -n '/^#!/d; /^#/!q; s/^# *//p' "$0"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
export DVC_NO_ANALYTICS=1
python3 -m venv "$folder/venv"
export PATH="$folder/venv/bin:$PATH"
pip install --quiet dvc==3.67.1 ruamel.yaml==0.19.1 ruamel.yaml.clib==0.2.15 pyyaml==6.0.3

cat > "$folder/make.py" <<'PYTHON'
"""A project of as many stages as asked for, each with 20 small files that it depends on."""

import sys
from pathlib import Path

import yaml

count = int(sys.argv[1])
Path("in").mkdir()
stages = {}
for stage in range(count):
    deps = [f"in/{stage}-{number}" for number in range(20)]
    for path in deps:
        Path(path).write_text(path)
    stages[f"stage{stage}"] = {"cmd": f"echo {stage} > out{stage}", "deps": deps, "outs": [f"out{stage}"]}
Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
PYTHON

cat > "$folder/seen.py" <<'PYTHON'
"""Run one stage again: calls of Python functions in ruamel.yaml's scanner and emitter, by DVC."""

import sys
from collections import Counter

from dvc.repo import Repo

calls = Counter()


def count(frame, event, _):
    if event == "call":
        calls[frame.f_globals.get("__name__", "")] += 1


with Repo() as repo:
    sys.setprofile(count)
    repo.reproduce("stage0", single_item=True)
    sys.setprofile(None)
print(calls["ruamel.yaml.scanner"], calls["ruamel.yaml.emitter"])
PYTHON

for stages in 5 50; do
    mkdir "$folder/$stages"
    cd "$folder/$stages"
    python ../make.py "$stages"
    dvc init --quiet --no-scm
    dvc repro --quiet
    echo changed > in/0-0
    read -r scanned emitted < <(python ../seen.py 2>/dev/null | tail -n 1)
    echo "Seen: to record one of $stages stages, $scanned calls in the scanner and $emitted in the emitter."
    eval "scanned_$stages=$scanned emitted_$stages=$emitted"
done
if [ $((scanned_5 * 6)) -gt "$scanned_50" ] || [ $((emitted_5 * 6)) -gt "$emitted_50" ]; then
    echo "CHANGED: this is no longer so."
    exit 1
fi
