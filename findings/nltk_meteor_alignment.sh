#!/usr/bin/env bash
# Package: nltk 3.10.4.
# Expected: align_words chooses, as its documentation says, "the match which has the least number of
#     crossing", so that METEOR's penalty counts the fewest chunks.
# Happens: each word takes the last free equal word of the reference, from the end, whatever that crosses.
#     A text that holds the whole reference in one run, and one of its words once more behind it, is
#     taken to be in four pieces.
set -euo pipefail
sed -n '/^#!/d; /^#/!q; s/^# *//p' "$0"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
python3 -m venv "$folder/venv"
export PATH="$folder/venv/bin:$PATH"
pip install --quiet nltk==3.10.4
cd "$folder"

python - <<'PYTHON'
import sys

from nltk.translate.meteor_score import align_words


class NoSynonyms:
    """In place of WordNet, whose data would have to be fetched."""

    def synsets(self, word):
        return []


reference = "a red boot with a sole".split()
caption = "a red boot with a sole a".split()
pairs, _, _ = align_words(caption, reference, wordnet=NoSynonyms())
chunks = 1 + sum(b != (a[0] + 1, a[1] + 1) for a, b in zip(pairs, pairs[1:]))
print(f"Seen: {pairs}: {chunks} chunks, and (0, 0) to (5, 5) is one of a single chunk")
if chunks == 1:
    sys.exit("CHANGED: this is no longer so.")
PYTHON
