"""Feasibility against loops over names, thresholds against masked scores, and files of vectors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compositional_prompts.clip.open_clip_model import Clip
from compositional_prompts.troika.evaluation import feasibility as feasibility_module
from compositional_prompts.troika.evaluation.czsl_metrics import czsl_metrics, sampled_metrics
from compositional_prompts.troika.evaluation.feasibility import (
    OpenWorld,
    pair_feasibility,
    word_vectors,
)
from compositional_prompts.troika.evaluation.glove import GloveError, read_word_vectors
from compositional_prompts.troika.evaluation.judging import Judgements, StreamedJudge, World, judge
from compositional_prompts.troika.evaluation.measured_worlds import choose_threshold
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.parameters import Feasibility


def feasibility_params(**changes: Any) -> Feasibility:
    values = {"vectors": "clip", "glove": None, "thresholds": 50, "masking": "exclude"}
    return Feasibility(**{**values, **changes})


class WordCounts(torch.nn.Module):
    """A text encoder whose features count letters, so that they can be worked out again."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()), requires_grad=False)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.scale * torch.nn.functional.one_hot(tokens, 128).sum(dim=1).float()


def letter_clip() -> Clip:
    def tokenizer(texts: list[str]) -> Tensor:
        return torch.tensor([[ord(letter) for letter in text.ljust(40)] for text in texts])

    return Clip(WordCounts(), lambda image: torch.empty(0), tokenizer, 8, (0, 0, 0), (1, 1, 1))


def letters(text: str) -> np.ndarray:
    counts = np.array([text.ljust(40).count(chr(code)) for code in range(128)], dtype=float)
    return np.asarray(counts / np.linalg.norm(counts))


def no_clip() -> Any:
    return SimpleNamespace()


def looped_feasibility(
    attribute_vectors: np.ndarray, object_vectors: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """Equations 5 to 7 of the paper, one pair after the other."""
    result = np.empty(seen.shape)
    for a, o in np.ndindex(seen.shape):
        by_object = by_attribute = -1.0
        for other in range(seen.shape[1]):
            if other != o and seen[a, other]:
                by_object = max(by_object, float(object_vectors[o] @ object_vectors[other]))
        for other in range(seen.shape[0]):
            if other != a and seen[other, o]:
                by_attribute = max(
                    by_attribute, float(attribute_vectors[a] @ attribute_vectors[other])
                )
        result[a, o] = 1.0 if seen[a, o] else (by_object + by_attribute) / 2
    return result


def unit(random: np.random.Generator, rows: int, dimension: int) -> np.ndarray:
    vectors = random.normal(size=(rows, dimension))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    attributes=st.integers(1, 7),
    objects=st.integers(1, 7),
    share=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    block=st.integers(1, 40),
)
def test_feasibility_equals_a_loop_over_all_names(
    seed: int, attributes: int, objects: int, share: float, block: int
) -> None:
    random = np.random.default_rng(seed)
    attribute_vectors, object_vectors = unit(random, attributes, 3), unit(random, objects, 3)
    seen = random.random((attributes, objects)) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feasibility_module, "BLOCK_ELEMENTS", block)
        found = pair_feasibility(
            torch.from_numpy(attribute_vectors),
            torch.from_numpy(object_vectors),
            torch.from_numpy(seen),
        )
    expected = looped_feasibility(attribute_vectors, object_vectors, seen)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_hand_made_feasibility() -> None:
    # Seen: (0, 0) and (1, 1). (0, 1): object 1 is like object 0 by 0.6, attribute 0 like 1 by 0.
    attributes = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    objects = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]], dtype=torch.float64)
    seen = torch.tensor([[True, False, False], [False, True, False]])
    found = pair_feasibility(attributes, objects, seen)
    # (0, 2): object 2 is opposite to object 0, and no attribute was seen with it.
    expected = [[1.0, 0.3, -1.0], [0.3, 1.0, (-0.6 - 1) / 2]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def random_open_world(
    seed: int, thresholds: int, masking: str, dtype: torch.dtype = torch.float32
) -> tuple[OpenWorld, Tensor, Tensor, Tensor, Tensor]:
    """An open world, its feasibility and seen pairs as tables, and scores and true pairs.

    Scores are ``[images, attributes * objects]``, the pairs by attribute, then object.
    """
    random = np.random.default_rng(seed)
    attributes, objects = random.integers(1, 7, size=2)
    seen = torch.from_numpy(random.random((attributes, objects)) < 0.4)
    feasibility = pair_feasibility(
        torch.from_numpy(unit(random, attributes, 4)),
        torch.from_numpy(unit(random, objects, 4)),
        seen,
    )
    images = int(random.integers(1, 60))
    truth = torch.from_numpy(random.integers(0, attributes * objects, size=images))
    scores = torch.from_numpy(random.normal(size=(images, attributes * objects))).to(dtype)
    scores[torch.arange(images), truth] += 1.5
    params = feasibility_params(thresholds=thresholds, masking=masking)
    return OpenWorld.ordered(feasibility, seen, params), feasibility, seen, scores, truth


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    thresholds=st.integers(1, 8),
    masking=st.sampled_from(["exclude", "multiply"]),
    block=st.integers(1, 20),
)
def test_the_sweep_equals_masking_the_scores_anew_at_each_threshold(
    seed: int, thresholds: int, masking: str, block: int
) -> None:
    opened, feasibility, seen, scores, truth = random_open_world(seed, thresholds, masking)
    flat_seen, flat_feasibility = seen.flatten(), feasibility.flatten()
    natural = World(
        torch.arange(seen.numel()) // seen.shape[1],
        torch.arange(seen.numel()) % seen.shape[1],
        flat_seen,
    )
    columns = opened.pair_indices[:, 0] * seen.shape[1] + opened.pair_indices[:, 1]
    assert torch.equal(opened.columns.flatten()[columns], torch.arange(len(columns)))
    streamed = StreamedJudge(opened.world, opened.columns.flatten()[truth], opened.cuts)
    for start in range(0, len(columns), block):
        streamed.add(scores[:, columns[start : start + block]], start)
    swept = streamed.finish(opened.seen_factors)
    assert len(swept) == len(opened.thresholds) == len(opened.cuts)
    for threshold, judged in zip(opened.thresholds.tolist(), swept, strict=True):
        if masking == "multiply":
            # The authors' formula; seen pairs have a feasibility of 0 in their file.
            kept_feasibility = torch.where(flat_seen, 0.0, flat_feasibility)
            masked = scores * ((kept_feasibility >= threshold).float() + flat_seen.float())
        else:
            feasible = flat_seen | (flat_feasibility >= threshold)
            masked = scores.masked_fill(~feasible, -torch.inf)
        expected = judge(masked, truth, natural)
        for metrics in (czsl_metrics, sampled_metrics):
            assert metrics(judged) == metrics(expected)
        for name in ("truth_score", "seen_hit", "unseen_hit", "margin"):
            assert torch.equal(getattr(judged, name), getattr(expected, name))


def test_order_of_the_open_world() -> None:
    seen = torch.tensor([[True, False, False], [False, True, False]])
    feasibility = torch.tensor([[1.0, 0.4, -0.1], [0.9, 1.0, -0.1]], dtype=torch.float64)
    opened = OpenWorld.ordered(feasibility, seen, feasibility_params(thresholds=3))
    np.testing.assert_allclose(opened.thresholds.numpy(), [0.9, 0.4, -0.1], atol=1e-12)
    assert opened.cuts == [3, 4, 6]
    assert opened.pair_indices.tolist() == [[0, 0], [1, 1], [1, 0], [0, 1], [0, 2], [1, 2]]
    assert opened.world.seen.tolist() == [True, True, False, False, False, False]
    assert opened.feasibility.tolist() == [1.0, 1.0, 0.9, 0.4, -0.1, -0.1]
    assert opened.columns.tolist() == [[0, 3, 4], [2, 1, 5]]
    assert opened.seen_factors is None
    multiplied = OpenWorld.ordered(
        feasibility, seen, feasibility_params(thresholds=3, masking="multiply")
    )
    assert multiplied.seen_factors == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("thresholds", [1, 50])
def test_worlds_without_unseen_or_without_seen_pairs(thresholds: int) -> None:
    params = feasibility_params(thresholds=thresholds)
    all_seen = torch.ones(2, 3, dtype=torch.bool)
    opened = OpenWorld.ordered(torch.ones(2, 3, dtype=torch.float64), all_seen, params)
    assert (opened.thresholds.tolist(), opened.cuts) == ([-1.0], [6])
    none_seen = OpenWorld.ordered(
        torch.full((1, 1), -1.0).double(), torch.tensor([[False]]), params
    )
    assert none_seen.thresholds.tolist() == [-1.0] * thresholds
    assert none_seen.cuts == [1] * thresholds


def of_auc(right: int, wrong: int) -> Judgements:
    """Judgements with an AUC of right / (right + wrong)."""
    world = World(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([True, False]))
    good, bad = [[1.0, 0.0], [0.0, 1.0]], [[-torch.inf, 0.0], [0.0, 1.0]]
    scores = torch.tensor(good * right + bad * wrong)
    return judge(scores, torch.tensor([0, 1] * (right + wrong)), world)


@pytest.mark.parametrize("protocol", ["exact", "sampled"])
def test_threshold_of_the_best_auc(protocol: Any) -> None:
    swept = [of_auc(1, 2), of_auc(3, 1), of_auc(2, 2), of_auc(3, 1), of_auc(0, 1)]
    assert choose_threshold(swept, protocol) == 3  # of equal ones the lower threshold
    assert choose_threshold([of_auc(0, 1), of_auc(0, 2)], protocol) == 1  # keeps all pairs
    world = World(torch.tensor([0]), torch.tensor([0]), torch.tensor([True]))
    seen_only = judge(torch.tensor([[1.0]]), torch.tensor([0]), world)
    assert choose_threshold([seen_only, seen_only], protocol) is None
    assert choose_threshold([Judgements.concatenate([])], protocol) is None


def test_the_protocol_decides_whose_auc() -> None:
    random = np.random.default_rng(0)
    world = World(torch.arange(6), torch.zeros(6).long(), torch.tensor([True] * 3 + [False] * 3))
    swept = [
        judge(
            torch.from_numpy(random.normal(size=(200, 6))),
            torch.from_numpy(random.integers(0, 6, size=200)),
            world,
        )
        for _ in range(40)
    ]
    exact = [czsl_metrics(judged)["auc"] for judged in swept]
    sampled = [sampled_metrics(judged)["auc"] for judged in swept]
    assert choose_threshold(swept, "exact") == int(np.argmax(exact))  # type: ignore[arg-type]
    assert choose_threshold(swept, "sampled") == int(np.argmax(sampled))  # type: ignore[arg-type]
    assert exact != sampled


def test_clip_vectors_are_of_a_photo_of_the_spoken_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feasibility_module, "TEXT_BATCH", 2)
    names = ["Faux.Leather", "Suede", "Boots.Mid-Calf"]
    found = word_vectors(feasibility_params(), letter_clip(), names)
    spoken = ["a photo of faux leather", "a photo of suede", "a photo of boots mid-calf"]
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), np.stack([letters(s) for s in spoken]), atol=1e-6)


def test_open_world_of_a_vocabulary() -> None:
    pairs = [("Wool", "Clog"), ("Suede", "Boot"), ("Suede", "Clog")]
    vocabulary = Vocabulary.of(pairs, [True, True, False], ["train", "train", "test"], "test")
    opened = OpenWorld.of(vocabulary, feasibility_params(thresholds=4), letter_clip())
    assert (vocabulary.attributes, vocabulary.objects) == (("Suede", "Wool"), ("Boot", "Clog"))
    seen = np.array([[True, False], [False, True]])
    expected = looped_feasibility(
        np.stack([letters(f"a photo of {name}") for name in ("suede", "wool")]),
        np.stack([letters(f"a photo of {name}") for name in ("boot", "clog")]),
        seen,
    )
    by_column = opened.pair_indices.numpy()
    np.testing.assert_allclose(
        opened.feasibility.numpy(), expected[by_column[:, 0], by_column[:, 1]], atol=1e-6
    )
    assert opened.pair_indices[:2].tolist() == [[0, 0], [1, 1]]


def test_one_attribute_and_one_object() -> None:
    vocabulary = Vocabulary.of([("Wool", "Clog")], [True], ["train"], "test")
    opened = OpenWorld.of(vocabulary, feasibility_params(), letter_clip())
    assert (opened.cuts, opened.columns.tolist()) == ([1], [[0]])


GLOVE = b"""the 0.1 0.2 0.3
. . . 9 9 9
faux 1 2 3
at name@domain.com 7 7 7
at 4 5 6
leather 3 0 -1
\xff\xfe 1 1 1
caf\xc3\xa9 1e-1 2 0.5
"""


def glove(tmp_path: Path, content: bytes = GLOVE) -> Path:
    path = tmp_path / "glove.txt"
    path.write_bytes(content)
    return path


def test_glove_names_are_means_of_their_words(tmp_path: Path) -> None:
    params = feasibility_params(vectors="glove", glove=str(glove(tmp_path)))
    found = word_vectors(params, no_clip(), ["Faux.Leather", "FAUX-the_Leather", "Café"])
    for row, expected in zip(
        found.numpy(), ([2.0, 1.0, 1.0], [4.1 / 3, 2.2 / 3, 2.3 / 3], [0.1, 2, 0.5]), strict=True
    ):
        np.testing.assert_allclose(row, np.array(expected) / np.linalg.norm(expected), atol=1e-12)


def test_glove_open_world(tmp_path: Path) -> None:
    params = feasibility_params(vectors="glove", glove=str(glove(tmp_path)))
    vocabulary = Vocabulary.of([("the", "faux"), ("at", "leather")], [True] * 2, ["train"] * 2, "x")
    opened = OpenWorld.of(vocabulary, params, no_clip())
    assert opened.cuts[0] > 2 and opened.cuts[-1] == 4


def test_every_missing_word_is_named_with_the_file(tmp_path: Path) -> None:
    params = feasibility_params(vectors="glove", glove=str(glove(tmp_path)))
    with pytest.raises(ValueError) as caught:
        word_vectors(params, no_clip(), ["Faux.Suede", "the", "Nubuck", "-."])
    message = str(caught.value)
    for part in ("glove.txt", "'suede' (Faux.Suede)", "'nubuck' (Nubuck)", "any word of '-.'"):
        assert part in message
    assert "'faux'" not in message


def test_an_entry_of_several_words_is_not_its_first_word(tmp_path: Path) -> None:
    found = read_word_vectors(glove(tmp_path), ["at", ".", "café"])
    assert set(found) == {"at", "café"}
    assert found["at"].tolist() == [4.0, 5.0, 6.0]


@pytest.mark.parametrize("end", [b"\n", b" \n", b"\r\n", b""])
def test_line_ends_and_the_first_line_of_word2vec(tmp_path: Path, end: bytes) -> None:
    lines = [b"1 2", b"clog 0.5 -2"]
    found = read_word_vectors(glove(tmp_path, (end or b"\n").join(lines) + end), ["clog", "1"])
    assert {word: vector.tolist() for word, vector in found.items()} == {"clog": [0.5, -2.0]}


def test_equal_duplicates_are_one(tmp_path: Path) -> None:
    found = read_word_vectors(glove(tmp_path, b"a 1 2\nb 3 4\na 1.0 2\n"), {"a"})
    assert found["a"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: expected a word and its numbers"),
        (b"\n", "line 1: expected a word"),
        (b"clog\n", "line 1: expected a word"),
        (b"clog one two\n", "line 1: expected a word"),
        (b"\xff\xfe\x00c\x00l\n", "line 1: expected a word"),
        (b"PK\x03\x04 1 2", "zip archive: unpack"),
        (b"\x1f\x8b\x08 1 2", "gzip archive: unpack"),
        (b"a 1 2\nb 1\n", "line 2: expected a word and 2 numbers"),
        (b"9 3\na 1 2 3\nb 1\n", "line 3: expected a word and 3 numbers"),
        (b"a 1 2\n\nb 1 2\n", "line 2: expected"),
        (b"a 1 2\nclog 1 x\n", "line 2: .*b'x'"),
        (b"a 1 2\nclog 1 nan\n", "line 2: .*not finite"),
        (b"clog 1 2\na 1 2\nclog 1 3\n", "'clog' in lines 1 and 3"),
    ],
)
def test_bad_files_are_refused_by_file_and_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(GloveError, match=f"glove.txt.*{message}"):
        read_word_vectors(glove(tmp_path, content), ["clog"])


def test_no_file_and_no_direction(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="unpacked text file"):
        read_word_vectors(tmp_path, ["clog"])
    path = glove(tmp_path, b"up 1 2\ndown -1 -2\n")
    params = feasibility_params(vectors="glove", glove=str(path))
    with pytest.raises(ValueError, match=r"glove\.txt gives 'Up\.Down' a vector without direction"):
        word_vectors(params, no_clip(), ["Up", "Up.Down"])
