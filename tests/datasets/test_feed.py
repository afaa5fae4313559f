"""Products as shops export them, of made-up shops."""

from __future__ import annotations

import http.server
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from base_section import base_section
from named_files import make
from pydantic import ValidationError

from compositional_prompts.catalog.schema import CatalogRow
from compositional_prompts.datasets.feeds import feed as feed_module
from compositional_prompts.datasets.feeds.feed import Feed
from compositional_prompts.datasets.feeds.feed_formats import FeedError, addresses, listed
from compositional_prompts.datasets.feeds.feed_products import words_in
from compositional_prompts.datasets.feeds.photo_folder import PhotoFolder

BASE = base_section(Path("rows"), workers=1)

SHOPIFY = '''\
Handle,Title,Body (HTML),Vendor,Type,Tags,Published,Option1 Name,Option1 Value,Option2 Name,Option2 Value,Variant SKU,Variant Price,Image Src,Image Position,Image Alt Text,Variant Image,Status
boat-shoe-hamble,Boat shoe Hamble,"<p class=""suede"">Canvas upper, rubber sole.</p>",Example & Co,Shoes > Boat Shoes,"summer, canvas, men",TRUE,Color,Navy,Size,41,EX-1001-41,59.90,https://cdn.example.org/hamble-1.jpg?v=1698,1,Side view,https://cdn.example.org/hamble-1.jpg?v=1698,active
boat-shoe-hamble,,,,,,,,Navy,,42,EX-1001-42,59.90,https://cdn.example.org/hamble-2.jpg?v=1698,2,"Top view, white",https://cdn.example.org/hamble-1.jpg?v=1698,
boat-shoe-hamble,,,,,,,,White,,41,EX-1002-41,59.90,,,,https://cdn.example.org/hamble-3.jpg,
boat-shoe-hamble,,,,,,,,,,,,,https://cdn.example.org/hamble-4.jpg,3,In a box,,
ankle-boot-507,"Ankle boot ""507""",,Example & Co,Shoes > Boots,"winter, leather",TRUE,Title,Default Title,,,,129.00,https://cdn.example.org/boot507.webp,1,,,active
clog,Clog,,Example & Co,Clogs,,TRUE,Color,Red,,,,9.00,https://cdn.example.org/clog.png,1,,,draft
mule,Mule,,Example & Co,Mules,,FALSE,Color,Red,,,,9.00,https://cdn.example.org/mule.png,1,,,active
sock,Sock,,Example & Co,Socks,,TRUE,Color,Red,,,,9.00,,,,,active
'''  # noqa: E501 - a header is one line
WOOCOMMERCE = """\
ID,Type,SKU,Name,Published,Categories,Tags,Images,"Attribute 1 name","Attribute 1 value(s)","Attribute 2 name","Attribute 2 value(s)",Parent
44,variable,EX-SLIP,Slipper Alm,1,"Shoes, Shoes > Slippers","wool","https://shop.example.org/alm-a.jpg, https://shop.example.org/alm-b.jpg",Color,"Grey, Red",Size,"38, 39",
46,simple,EX-MULE,Mule Tal,1,Shoes &gt; Mules,,"https://shop.example.org/2021/tal.jpg, https://shop.example.org/2022/tal.jpg",Colour,Brown,Material,"Leather, Suede",
47,simple,EX-CLOG,Clog,-1,Clogs,,https://shop.example.org/clog.jpg,,,,,
45,variation,EX-SLIP-G38,Slipper Alm - Grey,1,,,https://shop.example.org/alm-grey.png,Color,Grey,Size,38,EX-SLIP
48,variation,EX-SLIP-R,Slipper Alm - Red,1,,,https://shop.example.org/alm-red.png,pa_color,Red,,,id:44
"""  # noqa: E501 - a header is one line
GOOGLE = """\
id	title	link	image_link	additional_image_link	color	material	product_type	item_group_id
1001	Loafer Sol	https://shop.example.org/p/1001	https://shop.example.org/i/1001.jpg	https://shop.example.org/i/1001b.jpg,https://shop.example.org/i/1001c.jpg	Brown/Black	leather	Shoes > Loafers	SOL
2001	Pump	https://shop.example.org/p/2001	//shop.example.org/i/2001.jpg		Red		Pumps	
1002	Loafer Sol	https://shop.example.org/p/1002	https://shop.example.org/i/1002.jpg				Shoes > Loafers	SOL
1003	Loafer Sol, green	https://shop.example.org/p/1003	https://shop.example.org/i/1003.jpg	https://shop.example.org/i/1001b.jpg	Green	leather	Shoes > Loafers	SOL
"""  # noqa: E501 - a header is one line
RSS = """\
<?xml version="1.0"?>
<rss xmlns:g="http://base.google.com/ns/1.0" version="2.0"><channel><title>Shop</title>
<item><g:id>1</g:id><title>Pump &amp; bow</title><g:image_link>https://a.example.org/1.jpg</g:image_link>
<g:additional_image_link>https://a.example.org/2.jpg</g:additional_image_link>
<g:additional_image_link>https://a.example.org/3.jpg</g:additional_image_link>
<g:color>Red</g:color><g:product_type>Shoes &gt; Pumps</g:product_type></item>
<item><g:id>2</g:id><title>Boot</title><g:image_link>https://a.example.org/4.jpg</g:image_link>
<g:color>Black</g:color><g:product_type>Boots</g:product_type></item>
</channel></rss>
"""
ATOM = """\
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0"><title>Shop</title>
<entry><g:id>1</g:id><g:title>Boot</g:title><g:image_link>https://a.example.org/4.jpg</g:image_link>
<g:color>Black</g:color><g:product_type>Boots</g:product_type></entry></feed>
"""


def label(*names: str, part: str = "whole", words: list[str] | None = None) -> dict[str, Any]:
    return {"names": list(names), "part": part, "words": words}


FETCH = {
    "parallel": 4,
    "per_host": 2,
    "timeout_s": 20,
    "retries": 0,
    "max_mib": 1,
    "max_age_days": None,
    "allow_private": False,
}
SECTION: dict[str, Any] = {
    "format": "auto",
    "columns": {},
    "photos": None,
    "fetch": FETCH,
    "object": label("product_type", part="last"),
    "attribute": label("color", "colour"),
    "truth": [
        label("color", "colour") | {"group": "color"},
        label("material", "tags", words=["leather", "suede", "canvas", "wool"])
        | {"group": "material"},
    ],
    "missing_labels": ["NA"],
    "hidden": "drop",
    "on_missing": "keep",
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[dict[str, CatalogRow], dict[str, int]]]:
    """The photos of a feed by image_id, without their bytes, and how many were left out."""

    def read(
        text: str | bytes, name: str = "feed.csv", **changed: Any
    ) -> tuple[dict[str, CatalogRow], dict[str, int]]:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        empty = make(tmp_path / "photos", "nothing.jpg")
        section = SECTION | {"file": str(tmp_path / name), "photos": str(empty)} | changed
        selection = Feed.model_validate(section).select(BASE)
        rows = list(selection.rows)
        assert selection.total == len(rows)
        dropped = {reason: count for reason, count in selection.dropped.items() if count}
        return {row.image_id: row for row in rows}, dropped

    return read


def labels(rows: dict[str, CatalogRow]) -> dict[str, tuple[str | None, ...]]:
    return {
        image_id: (row.attribute, row.object, *(row.truth[group] for group in row.truth))
        for image_id, row in rows.items()
    }


def test_a_photo_of_shopify_is_of_the_variants_that_name_it(read: Any) -> None:
    rows, dropped = read(SHOPIFY)
    boat = "Boat.Shoes"
    assert labels(rows) == {
        "boat-shoe-hamble/hamble-1.jpg": ("Navy", boat, "Navy", "canvas"),
        "boat-shoe-hamble/hamble-2.jpg": ("White", boat, "White", "canvas"),
        "boat-shoe-hamble/hamble-4.jpg": (None, None, None, "canvas"),
        "boat-shoe-hamble/hamble-3.jpg": ("White", boat, "White", "canvas"),
        "ankle-boot-507/boot507.webp": (None, None, None, "leather"),
    }
    assert dropped == {"draft": 1, "unpublished": 1, "no_photo": 1}
    boot = rows["ankle-boot-507/boot507.webp"]
    assert (boot.title, boot.product_id) == ('Ankle boot "507"', "ankle-boot-507")
    assert boot.path == "https://cdn.example.org/boot507.webp"
    assert boot.rejection == "not_found"


def test_photos_without_labels_are_dropped_and_counted_by_why(read: Any) -> None:
    rows, dropped = read(SHOPIFY, on_missing="drop", hidden="keep")
    assert set(rows) == {
        *(f"boat-shoe-hamble/hamble-{n}.jpg" for n in (1, 2, 3)),
        "clog/clog.png",
        "mule/mule.png",
    }
    assert dropped == {"missing_label": 1, "ambiguous_label": 1, "no_photo": 1}


def test_the_headers_of_shopify_since_2025(read: Any) -> None:
    text = (
        "Title,URL handle,Product category,Status,Published on online store,Option1 name,"
        "Option1 value,Product image URL,Variant image URL,"
        "Material (product.metafields.shopify.material)\n"
        "Clog,clog,Apparel > Shoes > Clogs,Active,TRUE,Colour,Red,https://a.b/1.jpg,,Suede; Wool\n"
        "Mule,mule,Apparel > Shoes > Mules,Archived,TRUE,Colour,Red,https://a.b/2.jpg,,\n"
    )
    rows, dropped = read(text)
    assert labels(rows) == {"clog/1.jpg": ("Red", "Clogs", "Red", "suede;wool")}
    assert dropped == {"archived": 1}


def test_a_photo_of_woocommerce_is_of_its_variation(read: Any) -> None:
    rows, dropped = read(WOOCOMMERCE)
    second = next(name for name in rows if name.startswith("EX-MULE/tal.jpg~"))
    assert labels(rows) == {
        "EX-SLIP/alm-a.jpg": (None, None, None, "wool"),
        "EX-SLIP/alm-b.jpg": (None, None, None, "wool"),
        "EX-SLIP/alm-grey.png": ("Grey", "Slippers", "Grey", "wool"),
        "EX-SLIP/alm-red.png": ("Red", "Slippers", "Red", "wool"),
        "EX-MULE/tal.jpg": ("Brown", "Mules", "Brown", "leather;suede"),
        second: ("Brown", "Mules", "Brown", "leather;suede"),
    }
    assert dropped == {"draft": 1}
    assert rows["EX-SLIP/alm-grey.png"].title == "Slipper Alm - Grey"
    assert rows["EX-SLIP/alm-a.jpg"].title == "Slipper Alm"
    assert rows[second].path == "https://shop.example.org/2022/tal.jpg"


def test_a_variable_product_without_its_variations_is_in_none_of_its_colors(read: Any) -> None:
    rows, _ = read("".join(WOOCOMMERCE.splitlines(keepends=True)[:2]))
    assert {row.attribute for row in rows.values()} == {None}
    assert {row.truth["color"] for row in rows.values()} == {None}


def test_a_header_in_another_language_is_named_in_the_parameters(read: Any) -> None:
    german = WOOCOMMERCE.replace("Categories", "Kategorien").replace("Images", "Bilder")
    with pytest.raises(FeedError, match=r"is of no format that is read: .*columns.*Bilder: Images"):
        read(german)
    renamed = {"Kategorien": "Categories", "Bilder": "Images"}
    assert labels(read(german, columns=renamed)[0]) == labels(read(WOOCOMMERCE)[0])
    with pytest.raises(FeedError, match=r"feed\.csv has no column 'Fotos'"):
        read(german, columns={"Fotos": "Images"})


def test_a_blank_cell_of_a_variant_takes_the_products(read: Any) -> None:
    rows, dropped = read(GOOGLE, "feed.tsv", missing_labels=["red"])
    brown = ("Brown", "Loafers", "Brown;Black", "leather")
    assert labels(rows) == {
        "SOL/1001.jpg": brown,
        "SOL/1001b.jpg": (None, None, None, "leather"),  # shown with a brown and a green one
        "SOL/1001c.jpg": brown,
        "SOL/1002.jpg": (None, None, None, "leather"),  # brown or green
        "SOL/1003.jpg": ("Green", "Loafers", "Green", "leather"),
        "2001/2001.jpg": (None, None, None, None),
    }
    assert not dropped
    assert rows["SOL/1003.jpg"].title == "Loafer Sol, green"
    assert rows["2001/2001.jpg"].path == "https://shop.example.org/i/2001.jpg"
    two = "".join(line for line in GOOGLE.splitlines(keepends=True) if "1003" not in line)
    assert labels(read(two, "feed.tsv")[0])["SOL/1002.jpg"] == brown


@pytest.mark.parametrize("byte_order_mark", ["", "\N{ZERO WIDTH NO-BREAK SPACE}"])
def test_google_in_xml(byte_order_mark: str, read: Any) -> None:
    rows, _ = read(byte_order_mark + RSS, "feed.xml")
    assert labels(rows) == {
        **{f"1/{n}.jpg": ("Red", "Pumps", "Red", None) for n in (1, 2, 3)},
        "2/4.jpg": ("Black", "Boots", "Black", None),
    }
    assert rows["1/1.jpg"].title == "Pump & bow"
    assert labels(read(ATOM, "feed.xml")[0]) == {"1/4.jpg": ("Black", "Boots", "Black", None)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE rss [<!ENTITY a "b">]>' + ATOM, "declares a document type"),
        ('<!DOCTYPE rss SYSTEM "file:///etc/passwd">' + ATOM, "declares a document type"),
        (ATOM[:200], r"feed\.xml: not XML"),
        (ATOM.replace("g:id", "g:number"), r"item 1: id is empty"),
        ("<html></html>", "has no products"),
    ],
)
def test_xml_that_is_not_a_feed(text: str, message: str, read: Any) -> None:
    with pytest.raises(FeedError, match=message):
        read(text, "feed.xml")


@pytest.mark.parametrize(
    ("text", "changed", "message"),
    [
        ("", {}, "no format that is read"),
        ("a,b\n1,2\n", {}, r"no format that is read: a product export of Shopify has handle or"),
        ("a,b\n1,2\n", {"format": "shopify"}, "not a product export of Shopify: it has no column"),
        (SHOPIFY.splitlines()[0], {}, "has no products"),
        ("Handle,Image Src\n,https://a.b/1.jpg\n", {}, r"feed\.csv, line 2: the handle is empty"),
        ("SKU,Images,Type\n,https://a.b/1.jpg,x\n", {}, "line 2: ID and SKU are empty"),
        ("id,image_link\n,https://a.b/1.jpg\n", {}, "line 2: id is empty"),
        ("id,image_link\n1,\n", {}, "no product of .* has a photo"),
        ("id,image_link,size\n1,https://a.b/1.jpg,9\n", {}, r"object: no product .* product_type"),
    ],
)
def test_what_is_wrong_with_a_feed_is_told(
    text: str, changed: dict[str, Any], message: str, read: Any
) -> None:
    with pytest.raises(FeedError, match=message):
        read(text, **changed)


def test_a_misspelt_name_is_told_with_those_that_products_have(
    read: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FeedError, match=r"attribute: no product .* any of colr; .*color"):
        read(SHOPIFY, attribute=label("colr"))
    read(SHOPIFY, truth=[label("closure") | {"group": "closure"}])
    assert "no product has a closure: it was looked for in closure; products have:" in caplog.text


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "feed.csv").write_text(SHOPIFY)
    selection = Feed.model_validate(SECTION | {"file": str(tmp_path / "feed.csv")}).select(BASE)
    assert selection.columns_kept_out == [
        *("Body (HTML)", "Vendor", "Variant SKU", "Variant Price", "Image Position")
    ]


def test_variants_that_spell_one_value_in_several_ways_agree(read: Any) -> None:
    text = SHOPIFY.replace(",White,,41", ", NAVY,,41").replace(",Top view", ",")
    rows, dropped = read(text.replace('"Top view, white"', ""))
    found = labels(rows)
    assert found["boat-shoe-hamble/hamble-4.jpg"] == ("Navy", "Boat.Shoes", "Navy", "canvas")
    assert "ambiguous_label" not in dropped


def test_words_are_found_in_texts(read: Any) -> None:
    truth = [label("description", words=["suede", "rubber", "Canvas"]) | {"group": "material"}]
    rows, _ = read(SHOPIFY, truth=truth)
    assert rows["boat-shoe-hamble/hamble-1.jpg"].truth == {"material": "Canvas;rubber"}
    assert words_in("Dark  brown, brown leather-look RED", ("brown", "dark brown", "red")) == [
        "dark brown",
        "brown",
        "red",
    ]
    assert words_in("leather-look", ("leather",)) == []
    assert words_in("aus Lack, WEISS, cafe\u0301", ("wei\u00df", "Caf\u00e9")) == [
        "wei\u00df",
        "Caf\u00e9",
    ]
    assert words_in("a (b)", ("(b)",)) == ["(b)"]


def test_one_label_is_the_object(read: Any) -> None:
    rows, _ = read(SHOPIFY, attribute=None, truth=[])
    assert {(row.attribute, row.object) for row in rows.values()} == {
        (None, "Boat.Shoes"),
        (None, "Boots"),
    }
    rows, dropped = read(SHOPIFY, attribute=None, object=None, truth=[], on_missing="drop")
    assert len(rows) == 5
    assert "missing_label" not in dropped
    with pytest.raises(ValidationError, match="one label only, name it as object"):
        Feed.model_validate(SECTION | {"file": "a", "object": None})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"object": label("tags")}, "list the words"),
        ({"object": label("_")}, "blank name"),
        ({"object": label()}, "at least 1"),
        ({"truth": [label("a") | {"group": "b"}, label("c") | {"group": "b"}]}, "group 'b' 2 time"),
        ({"format": "magento"}, "shopify"),
        ({"fetch": FETCH | {"parallel": 0}}, "greater than or equal to 1"),
    ],
)
def test_parameters_are_checked(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Feed.model_validate(SECTION | {"file": "a"} | changed)


def test_a_million_rows_would_not_be_in_memory(read: Any) -> None:
    head, *lines = GOOGLE.splitlines(keepends=True)
    several = [line.replace("SOL", f"SOL{n}") for n in range(50) for line in lines]
    rows, _ = read(head + "".join(several), "feed.tsv")
    assert len(rows) == 50 * 5 + 1
    assert [name.split("/")[0] for name in rows][:6] == ["SOL0"] * 5 + ["2001"]


def test_a_photo_twice_under_one_number_is_counted(read: Any) -> None:
    lines = WOOCOMMERCE.splitlines(keepends=True)
    again = [lines[2].replace("46,", f"{number},", 1) for number in (46, 146, 246)]
    rows, dropped = read(lines[0] + "".join(again))
    assert len(rows) == 2
    assert dropped == {"repeated": 4}
    assert len({row.path for row in rows.values()}) == 2


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        (None, []),
        (" https://a.b/1.jpg ", ["https://a.b/1.jpg"]),
        ("https://a.b/1.jpg,https://a.b/2,3.jpg", ["https://a.b/1.jpg", "https://a.b/2,3.jpg"]),
        ("https://a.b/1.jpg | https://a.b/2.jpg\nhttps://a.b/1.jpg,",
         ["https://a.b/1.jpg", "https://a.b/2.jpg"]),
        ("//a.b/1.jpg, HTTPS://a.b/2.jpg", ["https://a.b/1.jpg", "HTTPS://a.b/2.jpg"]),
        ("alm-a.jpg,alm-b.jpg", ["alm-a.jpg", "alm-b.jpg"]),
    ],
)  # fmt: skip
def test_several_photos_in_a_cell(cell: str | None, found: list[str]) -> None:
    assert addresses(cell) == found


def test_values_in_a_cell() -> None:
    assert listed(r"Grey, Red\, bright ,, Grey") == ("Grey", "Red, bright")


def test_photos_in_a_folder_are_found_by_their_names(tmp_path: Path) -> None:
    make(
        tmp_path,
        *("uploads/2021/03/a.jpg", "uploads/2022/03/a.jpg", "b.jpg?v=1", "b.jpg?v=2", "c d.png"),
        *("x/e.jpg", "y/e.jpg", "f.jpgg.jpg"),
    )
    folder = PhotoFolder(tmp_path)

    def found(url: str) -> str | None:
        path, reason = folder.find(url)
        return reason if path is None else path.relative_to(tmp_path).as_posix()

    assert found("https://a.b/wp/uploads/2022/03/a.jpg") == "uploads/2022/03/a.jpg"
    assert found("https://a.b/wp/uploads/2021/03/a.jpg?x=1") == "uploads/2021/03/a.jpg"
    assert found("https://a.b/a.jpg") == "ambiguous_name"
    assert found("https://a.b/b.jpg?v=2") == "b.jpg?v=2"
    assert found("https://a.b/c%20d.png") == "c d.png"
    assert found("c d.png") == "c d.png"
    assert found("https://a.b/e.jpg") == "ambiguous_name"
    assert found("x/e.jpg") == "x/e.jpg"
    assert found("https://a.b/f.jpg") == "not_found"
    assert found("https://a.b/../../../etc/passwd") == "not_found"
    assert found("https://a.b/") == "bad_address"
    assert found("http://[") == "bad_address"


def test_photos_are_fetched_and_read_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading
    from functools import partial

    make(tmp_path / "served", "1.jpg", "2.jpg")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        place = f"http://127.0.0.1:{server.server_address[1]}"
        (tmp_path / "feed.csv").write_text(
            f'id,image_link,additional_image_link\n1,{place}/1.jpg,"{place}/2.jpg,{place}/3.jpg"\n'
        )
        bare = {"file": "feed.csv", "object": None, "attribute": None, "truth": []}
        for allowed in (False, True):
            section = SECTION | bare | {"fetch": FETCH | {"allow_private": allowed}}
            rows = list(Feed.model_validate(section).select(BASE).rows)
            expected: list[Any] = [(None, "private_address")] * 3
            if allowed:
                expected = [(b"1.jpg", None), (b"2.jpg", None), (None, "not_found")]
            assert [(row.image, row.rejection) for row in rows] == expected
        server.shutdown()
        thread.join()
    assert (tmp_path / feed_module.PHOTOS).is_dir()
    rows = list(Feed.model_validate(section).select(BASE).rows)
    assert [row.image for row in rows] == [b"1.jpg", b"2.jpg", None]


def test_a_missing_file_or_folder_is_told(tmp_path: Path) -> None:
    section = SECTION | {"file": str(tmp_path / "feed.csv")}
    with pytest.raises(FeedError, match=r"download\.feed\.file: there is no file"):
        Feed.model_validate(section).select(BASE)
    (tmp_path / "feed.csv").write_text(GOOGLE)
    with pytest.raises(FeedError, match=r"download\.feed\.photos: there is no directory"):
        Feed.model_validate(section | {"photos": str(tmp_path / "none")}).select(BASE)
    chosen = Feed.model_validate(section | {"photos": "pictures"})
    assert chosen.files() == [("file", section["file"]), ("photos", "pictures")]
    assert chosen.brings_labels()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: f"\N{ZERO WIDTH NO-BREAK SPACE}{text}",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: f"sep=\t\r\n{text}",
        lambda text: f"{text}{text.splitlines()[1].count(chr(9)) * chr(9)}\n\n",
        lambda text: text.replace("\t", ";"),
    ],
    ids=["mark", "crlf", "sep", "empty rows", "semicolons"],
)
def test_a_table_as_spreadsheets_save_it(change: Callable[[str], str], read: Any) -> None:
    assert labels(read(change(GOOGLE))[0]) == labels(read(GOOGLE)[0])


def test_a_long_description_is_read(read: Any) -> None:
    text = SHOPIFY.replace("rubber sole.", "rubber sole. " * 20_000)
    truth = [label("description", words=["canvas"]) | {"group": "material"}]
    rows, _ = read(text, truth=truth)
    assert rows["boat-shoe-hamble/hamble-1.jpg"].truth == {"material": "canvas"}
