"""The frozen half of BLIP-2 over a whole catalog: computed of new photos, taken from the row store
of all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from compositional_prompts.captioner.batch_size import fitting_batch_size
from compositional_prompts.captioner.features.feature_shards import (
    ShardImages,
    contents_digest,
    cut_shards,
    save_shard,
    write_cache,
)
from compositional_prompts.captioner.features.frozen_features import (
    FrozenFeatures,
    NamedPhoto,
    features_of,
)
from compositional_prompts.captioner.parameters import Blip2Features
from compositional_prompts.catalog.catalog_photos import CatalogPhotos
from compositional_prompts.catalog.images import encode_png
from compositional_prompts.catalog.reading import iterate_ids
from compositional_prompts.compute.precision import DTYPES, ResolvedPrecision
from compositional_prompts.compute.rows.completed_rows import CompletedRows, complete_rows
from compositional_prompts.compute.rows.computation import Item, kernel_batch
from compositional_prompts.files.scratch import link_or_copy
from compositional_prompts.pipeline.section import Base

LARGEST_AUTO = 256
"""The first batch that ``auto`` tries on a GPU: 65,000 vision tokens at full size keep any busy,
and the decoded images of the next batches must fit into memory too.
"""
