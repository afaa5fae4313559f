"""Every data set that ``download.dataset`` may name."""

from __future__ import annotations

from compositional_prompts.datasets.compositional.cgqa import Cgqa
from compositional_prompts.datasets.compositional.mit_states import MitStates
from compositional_prompts.datasets.compositional.ut_zappos import UtZappos
from compositional_prompts.datasets.compositional.vaw import Vaw
from compositional_prompts.datasets.dataset import DataSet
from compositional_prompts.datasets.feeds.feed import Feed
from compositional_prompts.datasets.folders.folder import Folder
from compositional_prompts.datasets.hub.fashion_products import FashionProducts
from compositional_prompts.datasets.hub.hub_data_set import Hub
from compositional_prompts.datasets.sample_shoes import SampleShoes
from compositional_prompts.datasets.webdatasets.webdataset import Webdataset

DATASETS: list[type[DataSet]] = [
    SampleShoes,
    FashionProducts,
    Hub,
    UtZappos,
    MitStates,
    Cgqa,
    Vaw,
    Folder,
    Webdataset,
    Feed,
]
