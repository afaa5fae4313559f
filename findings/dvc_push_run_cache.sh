#!/usr/bin/env bash
# Package: dvc 3.67.1.
# Expected: after "dvc push --run-cache" whoever clones the project computes nothing that was run here:
#     the records of all runs are in the remote, and "dvc repro --pull" takes their outputs from it.
# Happens: of the records' outputs only those of the workspace are pushed. Of other parameters a clone
#     finds the record, misses the objects, and runs the stage again, without a warning.
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

cat > dvc.yaml <<'YAML'
stages:
  write:
    cmd: echo ${word} > written.txt
    params: [word]
    deps: [given.txt]
    outs: [written.txt]
YAML
touch given.txt
dvc remote add --quiet --default storage "$folder/remote"
for word in first second; do
    echo "word: $word" > params.yaml
    dvc repro --quiet
done
git add --all
git commit --quiet --message first
dvc push --quiet --run-cache
records=$(find "$folder/remote/runs" -type f | wc -l)
objects=$(find "$folder/remote/files" -type f | wc -l)
git clone --quiet "$folder/project" "$folder/clone"
cd "$folder/clone"
echo "word: first" > params.yaml
ran=$(dvc repro --pull 2>&1 | grep -c "^Running stage" || true)

echo "Seen: $records records and $objects object in the remote; the clone ran $ran stage."
[[ $records == 2 && $objects == 1 && $ran == 1 ]] ||
    { echo "CHANGED: this is no longer so." >&2; exit 1; }
