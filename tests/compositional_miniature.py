"""UT-Zappos, MIT-States and C-GQA in miniature, byte for byte in the publishers' layouts."""

from __future__ import annotations

import io
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

SPLIT = "compositional-split-natural"
METADATA = f"metadata_{SPLIT}.t7"
Pairs = dict[str, list[tuple[str, str]]]


def photo(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 37 % 256, number * 91 % 256, number % 256)).save(
        buffer, "JPEG"
    )
    return buffer.getvalue()


def torch_file(value: Any, zipped: bool = False) -> bytes:
    """As torch.save writes it; the published lists are in the format before torch 1.6."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@dataclass
class Miniature:
    """A data set: the list of photos, the pairs of each split, and the photos by ``image``.

    Attributes:
        entries: as in the ``.t7``.
        pairs: as in the pair files.
        photos: file contents by ``image``.
    """

    pairs: Pairs
    entries: list[dict[str, Any]] = field(default_factory=list)
    photos: dict[str, bytes] = field(default_factory=dict)

    def add(self, image: str, attribute: str, object_: str, split: str, **more: str) -> None:
        self.entries.append(
            {"image": image, **more, "attr": attribute, "obj": object_, "set": split}
        )
        self.photos[image] = photo(len(self.entries))

    def split_files(self) -> dict[str, bytes]:
        files = {METADATA: torch_file(self.entries)}
        for name, pairs in self.pairs.items():
            lines = "\n".join(f"{attribute} {object_}" for attribute, object_ in pairs)
            files[f"{SPLIT}/{name}_pairs.txt"] = lines.encode()
        return files

    def prepared(self) -> dict[str, bytes]:
        """A folder as the field's loaders read it."""
        photos = {f"images/{image}": content for image, content in self.photos.items()}
        return self.split_files() | photos


UT_PAIRS: Pairs = {
    "train": [
        ("Canvas", "Boots.Ankle"),
        ("Canvas", "Shoes.Oxfords"),
        ("Faux.Leather", "Boots.Ankle"),
        ("Faux.Leather", "Slippers"),
        ("Suede", "Shoes.Oxfords"),
    ],
    "val": [("Canvas", "Boots.Ankle"), ("Suede", "Slippers")],
    "test": [("Suede", "Shoes.Oxfords"), ("Suede", "Boots.Ankle"), ("Canvas", "Slippers")],
}
UT_BRANDS = ("Acorn Kids", "A.P.C%2E", "Børn")
UT_TRUTH = b"""CID,Category,SubCategory,HeelHeight,Insole,Closure,Gender,Material,ToeStyle
100000-1,Boots,Ankle,1in - 1 3/4in,,Lace up;Zipper,Women,Canvas,Round Toe
100000-2,Boots,Ankle,,Padded,,Women;Girls, Canvas ; Suede ,
999999-1,Shoes,Oxfords,Flat,,Lace up,Men,Leather,Round Toe
"""


def ut_zappos() -> Miniature:
    """Two photos of every listed pair, in two colours of one product, and three to leave out."""
    data = Miniature(UT_PAIRS)
    product = 100000
    for split, pairs in UT_PAIRS.items():
        for attribute, object_ in pairs:
            for color in (1, 2):
                name = f"{product}.{color}.jpg"
                category, _, kind = object_.partition(".")
                brand = UT_BRANDS[product % 3].replace("%2E", ".")
                data.add(
                    f"{attribute}_{object_}/{name}",
                    attribute,
                    object_,
                    split,
                    _image=f"{category}/{kind or 'Slipper Flats'}/{brand}/{name}",
                )
            product += 1
    for attribute, object_, split in (
        ("NA", "Slippers", "train"),
        ("Rubber", "Slippers", "NA"),
        ("Canvas", "Slippers", "NA"),
    ):
        name = f"{product}.7.jpg"
        data.add(
            f"{attribute}_{object_}/{name}", attribute, object_, split, _image=f"Slippers/X/{name}"
        )
        product += 1
    return data


def ut_originals(data: Miniature) -> dict[str, bytes]:
    """The photos by their paths in UT-Zap50K, where a folder's last dot is written %2E."""
    return {
        entry["_image"].replace("A.P.C./", "A.P.C%2E/"): data.photos[entry["image"]]
        for entry in data.entries
    }


def ut_archives(folder: Path, data: Miniature) -> dict[str, Path]:
    """The publishers' three archives; that of the splits serves two data sets."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = {f"ut-zap50k-images/{name}": one for name, one in ut_originals(data).items()}
    splits = {f"ut-zap50k/{name}": one for name, one in data.split_files().items()}
    other = {f"mit-states/{name}": one for name, one in mit_states().split_files().items()}
    truth = {"ut-zap50k-data/readme.txt": b"", "ut-zap50k-data/meta-data.csv": UT_TRUTH}
    return {
        "images": write_zip(folder / "ut-zap50k-images.zip", photos),
        "splits": write_tar(folder / "compositional_split_natural.tar.gz", other | splits),
        "truth": write_zip(folder / "ut-zap50k-data.zip", truth),
    }


def mit_states() -> Miniature:
    data = Miniature(
        {
            "train": [("ancient", "clock"), ("ancient", "coffee_table"), ("broken", "clock")],
            "val": [("ancient", "clock")],
            "test": [("broken", "coffee_table")],
        }
    )
    for split, pairs in data.pairs.items():
        for attribute, object_ in pairs:
            for number in range(2):
                data.add(f"{attribute}_{object_}/{split}{number}.jpg", attribute, object_, split)
    data.add("adj_clock/a.jpg", "NA", "clock", "NA")
    return data


def mit_archives(folder: Path, data: Miniature) -> dict[str, Path]:
    """The publishers' two archives; folders of photos are named with spaces."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = {
        f"release_dataset/images/{image.replace('_', ' ')}": content
        for image, content in data.photos.items()
    }
    splits = {f"mit-states/{name}": one for name, one in data.split_files().items()}
    extra = {"release_dataset/README.txt": b"", "release_dataset/adj_ants.csv": b"a,b\n"}
    return {
        "images": write_zip(folder / "release_dataset.zip", photos | extra),
        "splits": write_tar(folder / "compositional_split_natural.tar.gz", splits),
    }


def cgqa() -> Miniature:
    data = Miniature(
        {
            "train": [("light_blue", "wall"), ("wooden", "wall"), ("wooden", "traffic-light")],
            "val": [("wooden", "wall")],
            "test": [("light_blue", "traffic-light")],
        }
    )
    number = 2_300_000
    for split, pairs in data.pairs.items():
        for attribute, object_ in pairs:
            data.add(f"{number}.jpg", attribute, object_, split)
            number += 1
    return data
