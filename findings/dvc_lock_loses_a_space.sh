#!/usr/bin/env bash
# Package: dvc 3.67.1.
# Expected: after "dvc repro" its stages are up to date, whatever their commands look like.
# Happens: dvc.lock wraps a long command, and where a line ends between two spaces one of them is lost.
#     Read back it is another command: the stage is "changed command" for ever, and runs again wherever
#     the run cache does not know it. A templated argument that is empty makes such two spaces.
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

# Two spaces lie where the line is wrapped.
words=$(printf ' word%.0s' {1..27})
cat > dvc.yaml <<YAML
stages:
  write:
    cmd: echo$words  last > written.txt
    outs: [written.txt]
  single:
    cmd: echo$words last > single.txt
    outs: [single.txt]
YAML
dvc repro --quiet
status=$(dvc status)
echo "Seen right after dvc repro: $(echo "$status" | tr -s '\n\t ' ' ')"
[[ $status == *"write:"*"changed command"* && $status != *"single:"* ]] ||
    { echo "CHANGED: this is no longer so." >&2; exit 1; }
