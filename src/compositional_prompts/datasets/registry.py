"""Every data set that ``download.dataset`` may name."""

from __future__ import annotations

from compositional_prompts.datasets.cgqa import Cgqa
from compositional_prompts.datasets.dataset import DataSet
from compositional_prompts.datasets.fashion_products import FashionProducts
from compositional_prompts.datasets.folder import Folder
from compositional_prompts.datasets.mit_states import MitStates
from compositional_prompts.datasets.sample_shoes import SampleShoes
from compositional_prompts.datasets.ut_zappos import UtZappos

DATASETS: list[type[DataSet]] = [
    SampleShoes,
    FashionProducts,
    UtZappos,
    MitStates,
    Cgqa,
    Folder,
]
