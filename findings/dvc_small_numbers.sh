#!/usr/bin/env bash
# Package: dvc 3.67.1, with ruamel.yaml 0.19.1 and PyYAML 6.0.3.
# Expected: a number set by "dvc exp run --set-param" is a number for a stage that reads
#     params.yaml with yaml.safe_load, as the same number is when it is typed into the file.
# Happens: DVC writes 0.00005 as 5e-05, a number in YAML 1.2. PyYAML reads YAML 1.1, where a number
#     with an exponent needs a point: the stage gets the string "5e-05", and nothing
#     warns. DVC installs both libraries.
set -euo pipefail
sed -n '/^#!/d; /^#/!q; s/^# *//p' "$0"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
python3 -m venv "$folder/venv"
export PATH="$folder/venv/bin:$PATH"
export DVC_NO_ANALYTICS=1 DVC_GLOBAL_CONFIG_DIR="$folder/global" DVC_SITE_CACHE_DIR="$folder/site"
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=nobody GIT_AUTHOR_EMAIL=nobody@example.com
export GIT_COMMITTER_NAME=nobody GIT_COMMITTER_EMAIL=nobody@example.com
pip install --quiet dvc==3.67.1 ruamel.yaml==0.19.1 PyYAML==6.0.3
mkdir "$folder/project"
cd "$folder/project"
git init --quiet
dvc init --quiet
dvc config core.check_update false

echo "rate: 0.00005" > params.yaml
cat > dvc.yaml <<'YAML'
stages:
  train:
    cmd: python train.py
    params: [rate]
    outs: [train.txt]
YAML
cat > train.py <<'PYTHON'
import yaml

with open("params.yaml") as params, open("train.txt", "w") as output:
    rate = yaml.safe_load(params)["rate"]
    print(type(rate).__name__, repr(rate), file=output)
PYTHON
python train.py
typed="$(cat params.yaml) is read as $(cat train.txt)"
rm train.txt

echo "rate: 0.001" > params.yaml
git add --all
git commit --quiet --message first
dvc exp run --quiet --set-param rate=0.00005
set="$(cat params.yaml) is read as $(cat train.txt)"

echo "Seen: typed into params.yaml:   $typed"
echo "      set by --set-param:       $set"
[[ $typed == "rate: 0.00005 is read as float 5e-05" &&
    $set == "rate: 5e-05 is read as str '5e-05'" ]] ||
    { echo "CHANGED: this is no longer so." >&2; exit 1; }
