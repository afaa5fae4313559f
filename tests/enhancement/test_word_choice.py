"""Scores of words, the choice among them, and the tables of vectors they come from."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from compositional_prompts.clip.vector_tables import (
    image_embeddings,
    iterate_image_vectors,
    word_embeddings,
)
from compositional_prompts.enhancement.word_choice import choose, score_words
from compositional_prompts.enhancement.word_vocabulary import read_vocabulary
from compositional_prompts.files.outputs import MissingOutputError
from compositional_prompts.files.tables import SchemaError


def unit(count, dimension, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def vectors_column(vectors):
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def write_images(path, ids, vectors):
    table = pa.table(
        {"image_id": pa.array(ids, pa.string()), "embedding": vectors_column(vectors)},
        schema=image_embeddings(vectors.shape[1]),
    )
    path.mkdir(exist_ok=True)
    for part in range(2):
        rows = table.slice(part * 10, 10 if part == 0 else None)
        pq.write_table(rows, path / f"part-{part:05d}.parquet", row_group_size=7)


def write_words(path, rows, vectors):
    table = pa.table(
        {
            "group": pa.array([group for group, _ in rows], pa.string()),
            "word": pa.array([word for _, word in rows], pa.string()),
            "embedding": vectors_column(vectors),
        },
        schema=word_embeddings(vectors.shape[1]),
    )
    pq.write_table(table, path)


def test_scores_are_cosines():
    images = unit(40, 12, 1)
    words = {"color": unit(3, 12, 3), "material": unit(1, 12, 4)}
    scores = score_words(images, words)
    for group, vectors in words.items():
        expected = [
            [
                float(np.dot(i.astype(float), w.astype(float)))
                / float(np.linalg.norm(i.astype(float)) * np.linalg.norm(w.astype(float)))
                for w in vectors
            ]
            for i in images
        ]
        assert scores[group].dtype == np.float32
        np.testing.assert_allclose(scores[group], expected, atol=1e-6)


def test_vectors_of_two_models_are_refused():
    with pytest.raises(ValueError, match="4 numbers and the word vectors 5"):
        score_words(unit(1, 4, 0), {"g": unit(2, 5, 1)})


cosines = arrays.arrays(
    np.float32,
    st.tuples(st.integers(0, 6), st.integers(1, 5)),
    elements=st.floats(-1, 1, width=32),
)


@given(cosines, st.floats(-1, 1))
def test_choice_against_sorting(scores, threshold):
    words = [f"w{column}" for column in range(scores.shape[1])]
    choice = choose(scores, words, threshold)
    for row, line in enumerate(scores.tolist()):
        ranked = sorted(range(len(line)), key=lambda column: -line[column])
        runner_up = line[ranked[1]] if len(line) > 1 else -1.0
        assert choice.best[row] == ranked[0]
        assert choice.score[row] == line[ranked[0]]
        assert choice.margin[row] == pytest.approx(line[ranked[0]] - runner_up, abs=1e-6)
        assert choice.margin[row] >= 0
        assert choice.chosen[row] == (np.float32(line[ranked[0]]) > np.float32(threshold))


def test_a_score_at_the_threshold_is_not_above_it():
    scores = np.array([[0.2, 0.1], [np.nextafter(np.float32(0.2), 1), 0.1]], dtype=np.float32)
    assert choose(scores, ["a", "b"], 0.2).chosen.tolist() == [False, True]


def test_the_vocabulary_keeps_the_order_of_its_rows(tmp_path):
    vectors = unit(4, 6, 0)
    rows = [("material", "suede"), ("color", "red"), ("color", "navy blue"), ("material", "cork")]
    write_words(tmp_path / "words.parquet", rows, vectors)
    found = read_vocabulary(tmp_path / "words.parquet")
    assert list(found.words.items()) == [
        ("material", ("suede", "cork")),
        ("color", ("red", "navy blue")),
    ]
    np.testing.assert_array_equal(found.vectors["material"], vectors[[0, 3]])
    np.testing.assert_array_equal(found.vectors["color"], vectors[[1, 2]])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no words"),
        ([("color", "red"), ("color", "red")], "group 'color' has the word 'red' 2 times"),
        ([("../color", "red")], "group '../color' must be made of letters"),
        ([("color", "a"), ("color_best", "b")], "two columns 'color_best'"),
        ([("object", "a")], "two columns 'object'"),
    ],
)
def test_vocabularies_that_cannot_be_used_are_refused(tmp_path, rows, message):
    write_words(tmp_path / "words.parquet", rows, unit(len(rows), 6, 0))
    with pytest.raises(ValueError, match=message):
        read_vocabulary(tmp_path / "words.parquet")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 3.0])
def test_a_vector_that_is_not_of_unit_length_is_named(tmp_path, bad):
    vectors = unit(20, 4, 0)
    vectors[13] = bad
    write_images(tmp_path / "images", [f"i{row}" for row in range(20)], vectors)
    with pytest.raises(ValueError, match=r"vector of 'i13' has length .*, expected 1"):
        list(iterate_image_vectors(tmp_path / "images", rows=6))


def test_a_missing_vector_is_named(tmp_path):
    fields = [pa.field("image_id", pa.string()), pa.field("embedding", pa.list_(pa.float32(), 2))]
    table = pa.table({"image_id": ["a", "b"], "embedding": [[1.0, 0.0], None]}, pa.schema(fields))
    (tmp_path / "images").mkdir()
    pq.write_table(table, tmp_path / "images" / "part-00000.parquet")
    with pytest.raises(ValueError, match="'embedding' is null in row 1"):
        list(iterate_image_vectors(tmp_path / "images"))


def test_tables_that_hold_no_vectors_are_named(tmp_path):
    with pytest.raises(MissingOutputError, match=r"images is missing"):
        list(iterate_image_vectors(tmp_path / "images"))
    (tmp_path / "images").mkdir()
    table = pa.table({"image_id": ["a"], "embedding": [[1.0, 0.0]]})
    pq.write_table(table, tmp_path / "images" / "part-00000.parquet")
    with pytest.raises(SchemaError, match=r"fixed-size lists .* found image_id: string"):
        list(iterate_image_vectors(tmp_path / "images"))


def test_a_table_without_rows_gives_nothing(tmp_path):
    write_images(tmp_path / "images", [], unit(0, 4, 0))
    assert sum(len(ids) for ids, _ in iterate_image_vectors(tmp_path / "images")) == 0
