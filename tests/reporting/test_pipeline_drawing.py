"""Reading dvc.yaml and laying its stages out."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compositional_prompts.pipeline.dvc_file import PipelineError
from compositional_prompts.reporting.drawing.layout import BOX_HEIGHT, BOX_WIDTH, Drawing, draw
from compositional_prompts.reporting.drawing.pipeline_graph import Pipeline, read_pipeline


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "dvc.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def read(tmp_path: Path, text: str) -> Pipeline:
    return read_pipeline(write(tmp_path, text))


def test_edges_follow_paths_and_leave_implied_ones_out(tmp_path: Path) -> None:
    pipeline = read(
        tmp_path,
        """
        stages:
          last: {cmd: x, deps: [data/a, data/b/part.csv]}
          first: {cmd: x, outs: [data/a]}
          middle: {cmd: x, deps: [data/a/one.parquet], outs: [{data/b: {cache: false}}]}
        """,
    )
    assert [stage.name for stage in pipeline.stages] == ["first", "middle", "last"]
    assert pipeline.edges == (("first", "middle"), ("middle", "last"))


def test_similar_names_are_not_the_same_path(tmp_path: Path) -> None:
    pipeline = read(
        tmp_path,
        "stages: {a: {cmd: x, outs: [models/blip2]}, b: {cmd: x, deps: [models/blip2_lora]}}",
    )
    assert pipeline.edges == ()


@pytest.mark.parametrize(
    "items",
    [
        "matrix: {captioner: [base, fine]}",
        "foreach: [{captioner: base}, {captioner: fine}]",
        "foreach: {one: {captioner: base}, two: {captioner: fine}}",
    ],
)
def test_variants_are_expanded(tmp_path: Path, items: str) -> None:
    body = "cmd: x, deps: ['${item.captioner}'], outs: ['captions/${item.captioner}.parquet']"
    body = body if items.startswith("matrix") else f"do: {{{body}}}"
    pipeline = read(
        tmp_path,
        f"stages: {{infer: {{{items}, {body}}}, s: {{cmd: x, deps: [captions/fine.parquet]}}}}",
    )
    assert len(pipeline.stages[0].variants) == 2
    assert pipeline.edges == (("infer", "s"),)


def test_matrix_items_may_be_mappings(tmp_path: Path) -> None:
    pipeline = read(
        tmp_path,
        """
        stages:
          train: {cmd: x, outs: [models/lora]}
          infer:
            matrix: {run: [{captioner: base, adapter: none}, {captioner: fine, adapter: lora}]}
            cmd: x
            deps: ["models/${item.run.adapter}"]
            outs: ["captions/${item.run.captioner}.parquet"]
          score: {cmd: x, deps: [captions]}
        """,
    )
    assert len(pipeline.stages[1].variants) == 2
    assert pipeline.edges == (("train", "infer"), ("infer", "score"))


def test_paths_of_params_and_vars_are_followed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("folder: data")
    pipeline = read(
        tmp_path,
        """
        vars: [{name: catalog}]
        stages:
          a: {cmd: x, outs: ["${folder}/${name}"]}
          b: {cmd: x, deps: [data/catalog/one.parquet]}
        """,
    )
    assert pipeline.edges == (("a", "b"),)


def test_the_pipeline_is_read_while_dvc_runs_it(tmp_path: Path) -> None:
    """As by the stage ``report``: DVC holds its lock, and there is no git."""
    program = tmp_path / "draw.py"
    program.write_text(
        "from pathlib import Path\n"
        "from compositional_prompts.reporting.drawing.pipeline_graph import read_pipeline\n"
        "Path('edges').write_text(str(read_pipeline(Path('dvc.yaml')).edges))\n"
    )
    write(
        tmp_path,
        f"""
        stages:
          first: {{cmd: echo a > a, outs: [a]}}
          report: {{cmd: '"{sys.executable}" draw.py', deps: [a], outs: [edges]}}
        """,
    )
    for words in (("init", "--no-scm", "--quiet"), ("repro", "--quiet")):
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "edges").read_text() == "(('first', 'report'),)"


def test_items_that_feed_one_another_through_another_stage_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="in a circle"):
        read(
            tmp_path,
            """
            stages:
              a: {foreach: {x: {in: s, out: m}, y: {in: n, out: t}},
                  do: {cmd: x, deps: ["${item.in}"], outs: ["${item.out}"]}}
              b: {cmd: x, deps: [m], outs: [n]}
            """,
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: {}", "has no stages"),
        ("- a", "expected a dictionary"),
        ("stages: [", "YAML file structure is corrupted"),
        ("stages: {a: 3}", "expected a dictionary"),
        ("stages: {a: {deps: [x]}}", "required key not provided"),
        ("stages: {a: {cmd: x, outs: [y]}, b: {cmd: x, outs: [y]}}", "'y' is specified in"),
        ("stages: {a: {cmd: x, deps: ['${nothing}']}}", "Could not find 'nothing'"),
        (
            "stages: {a: {cmd: x, deps: [x], outs: [y]}, b: {cmd: x, deps: [y], outs: [x]}}",
            "both a dependency and an output",
        ),
    ],
)
def test_what_cannot_be_drawn_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(f"{tmp_path / 'dvc.yaml'} ")
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="run from the root"):
        read_pipeline(tmp_path / "dvc.yaml")


def random_graph(nodes: int, density: float, seed: int) -> tuple[list[str], list[tuple[str, str]]]:
    rng = random.Random(seed)
    names = [f"n{index}" for index in range(nodes)]
    edges = [
        (names[i], names[j])
        for i in range(nodes)
        for j in range(i + 1, nodes)
        if rng.random() < density
    ]
    return names, edges


def curve_points(drawing: Drawing) -> list[tuple[str, str, float, float]]:
    """Points along every line, computed from the cubic and not read off the path."""
    points = []
    for line in drawing.lines:
        for index, ((x0, y0), (x1, y1)) in enumerate(pairwise(line.points)):
            for step in range(21):
                t = step / 20
                if index % 2:
                    x, y = x0, y0 + t * (y1 - y0)
                else:
                    middle = (y0 + y1) / 2
                    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
                    x = sum(w * v for w, v in zip(weights, (x0, x0, x1, x1), strict=True))
                    y = sum(w * v for w, v in zip(weights, (y0, middle, middle, y1), strict=True))
                points.append((line.start, line.end, x, y))
    return points


@settings(max_examples=40, deadline=None)
@given(nodes=st.integers(1, 14), density=st.floats(0, 0.6), seed=st.integers(0, 10**6))
def test_lines_run_through_no_box_and_boxes_do_not_touch(
    nodes: int, density: float, seed: int
) -> None:
    names, edges = random_graph(nodes, density, seed)
    drawing = draw(names, edges)
    assert [box.name for box in drawing.boxes] == names
    assert [(line.start, line.end) for line in drawing.lines] == edges
    for box in drawing.boxes:
        assert 0 <= box.x <= drawing.width - BOX_WIDTH
        assert 0 <= box.y <= drawing.height - BOX_HEIGHT
        for other in drawing.boxes:
            apart = abs(box.x - other.x) >= BOX_WIDTH or abs(box.y - other.y) >= BOX_HEIGHT
            assert apart or box is other
    top = {box.name: box.y for box in drawing.boxes}
    assert all(top[start] < top[end] for start, end in edges)
    for start, end, x, y in curve_points(drawing):
        assert 0 <= x <= drawing.width
        for box in drawing.boxes:
            inside = (
                box.x + 1e-6 < x < box.x + BOX_WIDTH - 1e-6
                and box.y + 1e-6 < y < box.y + BOX_HEIGHT - 1e-6
            )
            assert not inside, f"{start} -> {end} runs through {box.name}"


def test_a_line_ends_where_its_boxes_are() -> None:
    drawing = draw(["a", "b", "c"], [("a", "b"), ("b", "c"), ("a", "c")])
    corner = {box.name: (box.x + BOX_WIDTH / 2, box.y) for box in drawing.boxes}
    for line in drawing.lines:
        x, y = corner[line.start]
        assert line.points[0] == pytest.approx((x, y + BOX_HEIGHT))
        assert line.points[-1] == pytest.approx(corner[line.end])


def test_nothing_to_draw() -> None:
    assert draw([], []).boxes == ()
