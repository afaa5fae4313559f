#!/usr/bin/env bash
# Package: dvc 3.67.1.
# Expected: a stage whose output follows the order of keys in params.yaml runs when that order is
#     changed; at the least its output is not presented as up to date.
# Happens: parameters are compared as Python dictionaries, without order. After two keys are
#     swapped, "dvc params diff" and "dvc status" find no change, "dvc repro" runs nothing, and
#     where the output was deleted, it is restored from the cache in the old order.
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
pip install --quiet dvc==3.67.1
mkdir "$folder/project"
cd "$folder/project"
git init --quiet
dvc init --quiet
dvc config core.check_update false

cat > params.yaml <<'YAML'
words:
  color: red
  material: wool
YAML
cat > dvc.yaml <<'YAML'
stages:
  sentence:
    cmd: python sentence.py
    deps: [sentence.py]
    params: [words]
    outs: [sentence.txt]
YAML
cat > sentence.py <<'PYTHON'
import yaml

with open("params.yaml") as params, open("sentence.txt", "w") as sentence:
    print("A", *yaml.safe_load(params)["words"].values(), "hat", file=sentence)
PYTHON
dvc repro --quiet
git add --all
git commit --quiet --message first
before=$(cat sentence.txt)

cat > params.yaml <<'YAML'
words:
  material: wool
  color: red
YAML
difference=$(dvc params diff)
status=$(dvc status)
rm sentence.txt
repro=$(dvc repro)
after=$(cat sentence.txt)
python sentence.py
right=$(cat sentence.txt)

echo "Seen: output of color, material:       $before"
echo "      after the swap, dvc params diff: '$difference'"
echo "      dvc status: $status"
echo "      dvc repro without the output: $(grep ^Stage <<< "$repro")"
echo "      output after dvc repro: $after"
echo "      what the command writes: $right"
[[ -z $difference && $status == *"up to date"* && $repro != *"> python"* &&
    $before == "A red wool hat" && $after == "$before" && $right == "A wool red hat" ]] ||
    { echo "CHANGED: this is no longer so." >&2; exit 1; }
