"""From rows to a catalog: order, counts, what is set aside, and when it is refused."""

import io
import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from base_section import base_section
from PIL import Image

from compositional_prompts.catalog.reading import count_rows, read_labels
from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.catalog.shards import DuplicateImageError, ShardWriter
from compositional_prompts.catalog.truth import TRUTH
from compositional_prompts.compute.ordered_map import WorkerDiedError
from compositional_prompts.compute.rows import completed_rows
from compositional_prompts.datasets import ingestion
from compositional_prompts.datasets.dataset import Selection
from compositional_prompts.datasets.image_check import ImageCheck, reason_in
from compositional_prompts.datasets.image_limits import PHOTO_REASONS
from compositional_prompts.datasets.ingestion import REJECTED, IngestionError, ingest
from compositional_prompts.datasets.parameters import Download, MaxRejected
from compositional_prompts.files.tables import read_table
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.pipeline.section import Base
from compositional_prompts.prompt.pair import dotted
from compositional_prompts.sample.drawn_products import generate_catalog


class Crashing(ImageCheck):
    """Its process ends before the first photo."""

    def start(self) -> NoReturn:
        os._exit(3)


SHIPPED, _ = read_params(Path(__file__).parents[2] / "params.yaml", Download)


def download(max_rejected: float = 0.5, max_pixels: int = 10_000, count: int = 0) -> Download:
    allowed = MaxRejected(share=max_rejected, count=count)
    return SHIPPED.model_copy(
        update={"max_rejected": allowed, "max_pixels": max_pixels, "shard_mib": 1}
    )


def photo(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (16, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


PHOTOS = [photo(seed) for seed in range(5)]


def outputs(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "catalog", folder / "truth.parquet", folder / "rejected.parquet"


def rows(count: int) -> list[CatalogRow]:
    words = [("Red", "Shoes"), ("Blue", "Shoes"), ("Red", "Boots"), (None, None)]
    return [
        CatalogRow(f"i{n}", f"p{n // 2}", PHOTOS[n % 5], f"{n}.jpg", *words[n % 4])
        for n in range(count)
    ]


def base(tmp_path: Path, workers: int = 2) -> Base:
    """With a row store beside the outputs."""
    return base_section(tmp_path.with_name(f"{tmp_path.name}-rows"), workers=workers)


def selection(rows: list[CatalogRow]) -> Selection:
    return Selection("the test", iter(rows), len(rows), {"missing_label": 3})


def test_good_rows_go_through_in_order_and_bad_ones_are_counted(tmp_path: Path) -> None:
    given = [row._replace(truth={"color": f"c{n}"}) for n, row in enumerate(rows(300))]
    given[7] = given[7]._replace(image=b"")
    given[100] = given[100]._replace(image=PHOTOS[0][:-20])
    given[101] = given[101]._replace(image=None)
    given[299] = given[299]._replace(image=b"")
    metrics, computed = ingest(selection(given), *outputs(tmp_path), download(), base(tmp_path))
    assert computed == 6  # photos that are byte for byte alike once
    kept = [row.image_id for n, row in enumerate(given) if n not in (7, 100, 101, 299)]
    assert read_labels(tmp_path / "catalog")["image_id"].to_pylist() == kept
    truth = read_table(tmp_path / "truth.parquet", TRUTH)
    assert truth["image_id"].to_pylist() == kept
    assert truth["word"].to_pylist() == [f"c{image_id[1:]}" for image_id in kept]
    reasons = {"inaccessible": 1, "empty_file": 2, "truncated": 1}
    assert metrics == {
        "images": 296,
        "equal_images": 291,
        "labelled": 296 - sum(int(image_id[1:]) % 4 == 3 for image_id in kept),
        "products": 149,
        "attributes": 2,
        "objects": 2,
        "pairs": 3,
        "rejected": reasons,
        "dropped": {"missing_label": 3},
        "grows": False,
    }
    rejected = read_table(tmp_path / "rejected.parquet", REJECTED).to_pylist()
    assert [row["image_id"] for row in rejected] == ["i7", "i100", "i101", "i299"]
    assert rejected[1] == {"image_id": "i100", "path": "100.jpg", "reason": "truncated"}


def test_objects_alone_are_labels_of_a_data_set_that_has_no_others(tmp_path: Path) -> None:
    given = [row._replace(attribute=None) for row in rows(8)]
    given[0] = given[0]._replace(attribute="Red", object=None)
    metrics, _ = ingest(selection(given), *outputs(tmp_path), download(), base(tmp_path))
    labels = read_labels(tmp_path / "catalog", ["attribute", "object"])
    assert labels["attribute"].null_count == 8
    objects = [None, "Shoes", "Boots", None, "Shoes", "Shoes", "Boots", None]
    assert labels["object"].to_pylist() == objects
    counted = ("labelled", "attributes", "objects", "pairs", "half_labelled")
    assert [metrics[name] for name in counted] == [5, 0, 2, 0, 1]


def test_half_labels_among_pairs_are_taken_as_none_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = rows(300)
    given[0] = given[0]._replace(attribute=None)
    given[1] = given[1]._replace(object=None)
    given[299] = given[299]._replace(object="Boots")
    with caplog.at_level("WARNING"):
        metrics, _ = ingest(selection(given), *outputs(tmp_path), download(), base(tmp_path))
    assert "3 images have an attribute or an object, and not both" in caplog.text
    whole = [row if row.attribute and row.object else row._replace(attribute=None, object=None)
             for row in given]  # fmt: skip
    expected = tmp_path.with_name(f"{tmp_path.name}-whole")
    ingest(selection(whole), *outputs(expected), download(), base(tmp_path))
    for shard in (expected / "catalog").iterdir():
        assert read_labels(tmp_path / "catalog").equals(read_labels(expected / "catalog")), shard
    assert metrics["half_labelled"] == 3
    assert metrics["labelled"] == sum(row.object is not None for row in whole)


def test_spellings_of_one_word_are_joined_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = ["Canvas", "canvas", "Canvas", "CANVAS", "Caf\u00e9", "Cafe\u0301", "Suede", None]
    truth = [
        "Lace up; lace  up",
        "lace up",
        "Lace up;zip",
        None,
        "ZIP",
        "zip",
        "zip",
        "cannot Tell; Cannot tell",
    ]
    given = [
        row._replace(attribute=one, object=one and ("boots" if n == 3 else "Boots"),
                     truth={"closure": words})
        for n, (row, one, words) in enumerate(zip(rows(8), labels, truth, strict=True))
    ]  # fmt: skip
    tables = []
    for name, order in (("there", given), ("back", given[::-1])):
        caplog.clear()
        with caplog.at_level("WARNING"):
            metrics, _ = ingest(
                selection(order), *outputs(tmp_path / name), download(), base(tmp_path)
            )
        columns = ["image_id", "attribute", "object"]
        found = read_labels(tmp_path / name / "catalog", columns).sort_by("image_id")
        words = read_table(tmp_path / name / "truth.parquet", TRUTH).sort_by(
            [("image_id", "ascending"), ("word", "ascending")]
        )
        tables.append((found.to_pydict(), words.to_pydict(), metrics))
        assert "one object, written as most images have it: 'Boots' for 'boots' (1)" in caplog.text
        assert "'Canvas' for 'CANVAS' (1), 'canvas' (1)" in caplog.text
    assert tables[0] == tables[1]
    found, words, metrics = tables[0]
    assert found["attribute"] == ["Canvas"] * 4 + ["Caf\u00e9"] * 2 + ["Suede", None]
    assert found["object"] == ["Boots"] * 7 + [None]
    assert words["image_id"] == ["i0", "i1", "i2", "i2", "i4", "i5", "i6"]
    assert words["word"] == ["Lace up", "Lace up", "Lace up", "zip", "zip", "zip", "zip"]
    assert [metrics[name] for name in ("labelled", "attributes", "objects", "pairs")] == [
        7,
        3,
        1,
        3,
    ]
    assert metrics["joined_spellings"] == {
        "attribute": {"Canvas": {"CANVAS": 1, "canvas": 1}, "Caf\u00e9": {"Cafe\u0301": 1}},
        "object": {"Boots": {"boots": 1}},
        "truth": {"closure": {"Lace up": {"lace  up": 1, "lace up": 1}, "zip": {"ZIP": 1}}},
    }


def test_files_that_a_searched_folder_passed_over_are_counted(tmp_path: Path) -> None:
    given = selection(rows(3))._replace(passed_over={"jp2": 2, "txt": 1})
    metrics, _ = ingest(given, *outputs(tmp_path), download(), base(tmp_path, 1))
    assert metrics["passed_over"] == {"jp2": 2, "txt": 1}


def test_what_a_data_set_sets_aside_itself_is_counted_by_its_reason(tmp_path: Path) -> None:
    given = rows(10)
    given[2] = given[2]._replace(rejection="out_of_stock")
    given[4] = given[4]._replace(rejection="cut_off", image=None)
    given[5] = given[5]._replace(image=b"")
    metrics, _ = ingest(selection(given), *outputs(tmp_path), download(), base(tmp_path, 1))
    assert metrics["images"] == 7
    assert metrics["rejected"] == {"empty_file": 1, "cut_off": 1, "out_of_stock": 1}
    rejected = read_table(tmp_path / "rejected.parquet", REJECTED).to_pylist()
    assert [row["reason"] for row in rejected] == ["out_of_stock", "cut_off", "empty_file"]
    given = rows(10)
    given[2] = given[2]._replace(rejection="out_of_stock")
    with pytest.raises(IngestionError, match=r"1 of 10 images .*1 out_of_stock.*2\.jpg \(out_of"):
        ingest(selection(given), *outputs(tmp_path), download(0.05), base(tmp_path, 1))


def test_columns_that_are_not_used_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = selection(rows(3))._replace(columns_kept_out=["season", "price"])
    with caplog.at_level("INFO"):
        metrics, _ = ingest(given, *outputs(tmp_path), download(), base(tmp_path, 1))
    assert metrics["columns_kept_out"] == ["season", "price"]
    assert "columns that are not used: season, price" in caplog.text


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    for workers in (1, 3):
        name = str(workers)
        given = selection(rows(200))
        ingest(given, *outputs(tmp_path / name), download(), base(tmp_path / name, workers))
    files = [
        (tmp_path / name / "catalog" / "part-00000.parquet").read_bytes() for name in ("1", "3")
    ]
    assert files[0] == files[1]


def test_too_many_bad_images_stop_the_run_and_leave_nothing(tmp_path: Path) -> None:
    given = [row._replace(image=b"") if n < 3 else row for n, row in enumerate(rows(10))]
    with pytest.raises(
        IngestionError, match=r"3 of 10 images .*3 empty_file.*max_rejected.*0\.jpg \(empty_file\)"
    ):
        ingest(
            selection(given),
            *outputs(tmp_path),
            download(max_rejected=0.29),
            base(tmp_path, 1),
        )
    assert list(tmp_path.iterdir()) == []
    ingest(selection(given), *outputs(tmp_path), download(max_rejected=0.3), base(tmp_path))
    assert count_rows(tmp_path / "catalog") == 7


@pytest.mark.parametrize(
    ("bad", "images", "passes"), [(1, 61, True), (3, 8, True), (4, 8, False), (4, 400, True)]
)
def test_the_larger_of_share_and_count_is_allowed(bad: int, images: int, passes: bool) -> None:
    """As params.yaml has them: one bad file does not stop a small catalogue."""
    assert SHIPPED.max_rejected.allows(bad, images) is passes


def test_a_number_alone_is_refused_with_what_to_write(tmp_path: Path) -> None:
    values = SHIPPED.model_dump() | {"max_rejected": 0.05}
    with pytest.raises(ValueError, match=r"\{share: 0\.05, count: 3\}"):
        Download.model_validate(values)


def test_max_pixels_is_the_parameter(tmp_path: Path) -> None:
    paths = outputs(tmp_path)
    kept = base(tmp_path)
    metrics, _ = ingest(selection(rows(1)), *paths, download(max_pixels=192), kept)
    assert metrics["rejected"] == {}
    with pytest.raises(IngestionError, match="1 too_many_pixels"):
        ingest(selection(rows(1)), *paths, download(max_pixels=191), kept)


@pytest.mark.parametrize("given", [[], [rows(1)[0]._replace(image=b"")]])
def test_an_empty_data_set_is_an_error(tmp_path: Path, given: list[CatalogRow]) -> None:
    with pytest.raises(IngestionError, match=r"empty data set: the test .*3 missing_label"):
        ingest(
            selection(given),
            *outputs(tmp_path),
            download(max_rejected=1.0),
            base(tmp_path, 1),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_duplicate_image_id_is_an_error(tmp_path: Path) -> None:
    given = rows(80)
    given[70] = given[70]._replace(image_id="i3")
    with pytest.raises(DuplicateImageError, match=r"'i3' occurs twice: '3.jpg' and '70.jpg'"):
        ingest(selection(given), *outputs(tmp_path), download(), base(tmp_path))


def test_a_worker_that_dies_is_an_error_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "ImageCheck", Crashing)
    died = r"died while it computed image_check of the images from 0\.jpg to .* lower base\.workers"
    with pytest.raises(WorkerDiedError, match=died):
        ingest(selection(rows(500)), *outputs(tmp_path), download(), base(tmp_path, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_drawing_process_that_dies_does_not_blame_the_images(tmp_path: Path) -> None:
    def drawn() -> Iterator[CatalogRow]:
        stream = (CatalogRow(*row[:4]) for row in generate_catalog(2000, 0, 2))
        yield next(stream)
        # Those that check have not been started.
        for child in multiprocessing.active_children():
            child.kill()
        yield from stream

    given = Selection("the sample", drawn(), None, {})
    with pytest.raises(WorkerDiedError, match=r"died while it drew .* from number \d+ to \d+:"):
        ingest(given, *outputs(tmp_path), download(), base(tmp_path, 1))
    assert list(tmp_path.iterdir()) == []


def test_rows_are_asked_for_as_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    ahead = []
    original = ShardWriter.write

    def counted() -> Iterator[CatalogRow]:
        nonlocal asked
        for row in rows(3000):
            asked += 1
            yield row

    def write(self: ShardWriter, row: CatalogRow) -> None:
        ahead.append(asked - int(row.image_id[1:]))
        original(self, row)

    monkeypatch.setattr(ShardWriter, "write", write)
    given = Selection("the test", counted(), None, {})
    kept = base(tmp_path)
    monkeypatch.setattr(completed_rows, "STREAM_ROWS", 128)
    for computed in (5, 0):
        asked = 0
        ahead.clear()
        assert ingest(given._replace(rows=counted()), *outputs(tmp_path), download(), kept)[1] == (
            computed
        )
        assert len(ahead) == 3000
        assert max(ahead) <= 128
    monkeypatch.setattr(completed_rows, "STREAM_BYTES", 1)
    ahead.clear()
    asked = 0
    ingest(given._replace(rows=counted()), *outputs(tmp_path), download(), kept)
    assert max(ahead) <= completed_rows.ASKED_AT_ONCE


def test_only_new_photos_are_checked_and_the_catalog_is_as_from_nothing(tmp_path: Path) -> None:
    generator = np.random.default_rng()
    photos = [photo(seed) for seed in range(100, 160)]
    photos[7] = photos[7][:-20]
    photos[21] = b"no photo"
    given = [
        CatalogRow(f"i{n}", f"p{n}", data, f"{n}.jpg", None, None) for n, data in enumerate(photos)
    ]
    kept = base(tmp_path)

    def made(rows: list[CatalogRow], name: str, where: Base) -> tuple[list[bytes], int]:
        places = outputs(tmp_path / name)
        metrics, computed = ingest(selection(rows), *places, download(), where)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        return [json.dumps(metrics).encode(), *(file.read_bytes() for file in files)], computed

    for _ in range(3):
        order = generator.permutation(60).tolist()
        some = [given[place] for place in order]
        from_nothing, computed = made(some, "new", base(tmp_path / str(order[0])))
        assert computed == 60
        made(some[:50], "kept", kept)
        again, computed = made(some, "kept", kept)
        assert again == from_nothing
        assert computed <= 10


@pytest.mark.parametrize("turned", [False, True])
def test_a_check_knows_the_size_of_the_upright_image(turned: bool) -> None:
    image = Image.new("RGB", (16, 12))
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    worker = ImageCheck(max_pixels=192).start()
    some = [worker.prepare(buffer.getvalue()), worker.prepare(b"no photo")]
    rows = worker.compute(some)
    assert rows[0].tolist() == (-1, *((12, 16) if turned else (16, 12)))
    assert reason_in(rows[0]) is None
    assert rows[1].tolist() == (PHOTO_REASONS.index("unreadable"), 0, 0)
    assert reason_in(rows[1]) == "unreadable"
    (small,) = (
        ImageCheck(max_pixels=191)
        .start()
        .compute([ImageCheck(max_pixels=191).start().prepare(buffer.getvalue())])
    )
    assert reason_in(small) == "too_many_pixels"


def test_words_of_prompts() -> None:
    assert dotted("  Casual  Shoes ") == "Casual.Shoes"
    assert dotted("Boots.Mid-Calf") == "Boots.Mid-Calf"
    for bad in ("", " ", "T_Shirt"):
        with pytest.raises(ValueError, match=r"blank|underscore"):
            dotted(bad)


@pytest.mark.parametrize("kind", ["attribute", "object"])
def test_a_label_that_says_nothing_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    given = rows(3)
    given[2] = given[2]._replace(**{kind: "."})
    with pytest.raises(IngestionError, match=rf"^2\.jpg: the {kind} '\.' has no letter.*missing"):
        ingest(selection(given), *outputs(tmp_path), download(), base(tmp_path))
    assert not (tmp_path / "catalog").exists()
