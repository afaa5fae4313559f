"""BERTScore against bert-score's numbers, an independent computation, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from hub_cache import COMMIT, mirror, offline
from reference_scores import reference_column
from tiny_bert import save_tiny_bert
from transformers import BertModel, BertTokenizerFast

from compositional_prompts.scoring.caption_metrics.bert_score import load_bert_scorer
from compositional_prompts.scoring.parameters import BertScore


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_bert(tmp_path_factory.mktemp("bert") / "tiny")


def scorer(name, batch_size=16, **changed):
    params = {"source": "path", "revision": None, "layer": 2} | changed | {"name": str(name)}
    return load_bert_scorer(BertScore(**params), batch_size, torch.device("cpu"))


def by_formula(folder, caption, reference, layer):
    """Equation 1 of Zhang et al. (2020), in float64; [CLS] and [SEP] are matched, not counted."""
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    model = BertModel.from_pretrained(folder).double().eval()

    def embed(text):
        tokens = torch.tensor([tokenizer.encode(text)])
        with torch.no_grad():
            vectors = model(tokens, output_hidden_states=True).hidden_states[layer][0].numpy()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    cosines = embed(caption) @ embed(reference).T
    precision = cosines.max(axis=1)[1:-1].mean()
    recall = cosines.max(axis=0)[1:-1].mean()
    return 2 * precision * recall / (precision + recall)


def test_as_bert_score_scores_200_pairs(folder):
    captions, references = reference_column("caption"), reference_column("reference")
    expected = reference_column("bert_score")
    assert len(set(expected)) > 150
    found = scorer(folder)(captions, references)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    # Neighbours and their padding decide nothing but last digits.
    assert scorer(folder, 1)(captions[:20], references[:20]) == pytest.approx(found[:20], abs=1e-6)


@pytest.mark.parametrize("layer", [1, 3])
def test_against_the_formula(folder, layer):
    caption, reference = "a red boot with white sandals", "the leather boots of wool"
    expected = by_formula(folder, caption, reference, layer)
    found = scorer(folder, layer=layer)([caption, reference], [reference, caption])
    assert found.tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_edges(folder):
    score = scorer(folder, 2)
    assert score([], []).shape == (0,)
    assert score(["", " ", "red", ""], ["red", "red", "", ""]).tolist() == [0] * 4
    assert score(["red boot"], ["red boot"])[0] == pytest.approx(1, abs=1e-6)
    assert max(score(["red boot", "a wool shoe"], ["red boot", "a wool shoe"])) <= 1
    assert score(["ботинки"], ["red"])[0] < 1
    long = "red boot " * 400
    assert score([long], [long])[0] == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="shorter"):
        score(["a", "b"], ["a"])


def test_a_model_of_the_hub(folder, tmp_path, monkeypatch):
    mirror(tmp_path, "someone/tiny", folder)
    offline(tmp_path, monkeypatch)
    score = scorer("someone/tiny", source="hub", revision=COMMIT)
    assert score(["red"], ["boot"]) == scorer(folder)(["red"], ["boot"])
    with pytest.raises(FileNotFoundError, match=r"score\.bert_score: someone/other is neither"):
        scorer("someone/other", source="hub")


def test_what_is_no_such_encoder_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"score\.bert_score\.layer is 4, and .* has 3 layers"):
        scorer(folder, layer=4)
    with pytest.raises(FileNotFoundError, match=r"nowhere has no config\.json"):
        scorer(tmp_path / "nowhere")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors \(pickles, such as"):
        scorer(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        scorer(tmp_path)
    shutil.copy(folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ValueError, match="is a t5, expected an encoder such as bert"):
        scorer(tmp_path)
