#!/usr/bin/env bash
# Package: ray 2.60.0.
# Expected: after ray.shutdown() a process that had a Ray of its own can join a cluster and use it.
# Happens: every actor that it makes there is destroyed at once, "because all references to the actor
#     were removed", though its handle is held. A process that joins the cluster first can use it.
set -euo pipefail
sed -n '/^#!/d; /^#/!q; s/^# *//p' "$0"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH RAY_ADDRESS
python3 -m venv "$folder/venv"
export PATH="$folder/venv/bin:$PATH"
export RAY_USAGE_STATS_ENABLED=0
pip install --quiet ray==2.60.0
cd "$folder"

python - 2>/dev/null <<'PYTHON'
import sys

import ray
from ray.cluster_utils import Cluster

SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


class Actor:
    def answer(self):
        return 42


def used() -> str:
    actor = ray.remote(Actor).remote()
    try:
        return str(ray.get(actor.answer.remote(), timeout=60))
    except ray.exceptions.ActorDiedError as error:
        return "ActorDiedError: " + str(error).splitlines()[-2]


cluster = Cluster(True, head_node_args=SMALL)
ray.init(address="local", **SMALL)
own = used()
ray.shutdown()
ray.init(cluster.address)
joined = used()
ray.shutdown()
ray.init(cluster.address)
again = used()
ray.shutdown()
cluster.shutdown()
print("Seen: an actor of a Ray of the process' own answers", own)
print("      one of a cluster that it joins then:", joined)
print("      one of that cluster, joined once more:", again)
if own != "42" or "all references" not in joined or "all references" not in again:
    sys.exit("CHANGED: this is no longer so.")
PYTHON
