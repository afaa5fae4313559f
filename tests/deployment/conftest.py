"""A project after training, photos, and the command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from micro_blip2 import miniature, save
from trained_project import (
    BEAMS,
    CPU,
    PAIR_ROWS,
    SEGMENTS,
    TOKENS,
    WORDS,
    Run,
    encoded,
    set_params,
    write_adapter,
    write_clip,
    write_cosines,
    write_recommendation,
)

from compositional_prompts.__main__ import main
from compositional_prompts.captioner.decoding.grammar_file import write_grammar
from compositional_prompts.catalog.splitting.split_tables import PAIRS
from compositional_prompts.clip.open_clip_model import load_clip
from compositional_prompts.files.tables import write_table
from compositional_prompts.pipeline.params_file import read_params
from compositional_prompts.troika.model.model_folder import save_model
from compositional_prompts.troika.model.network import TroikaConfig
from compositional_prompts.troika.model.pair_vocabulary import Vocabulary
from compositional_prompts.troika.parameters import TroikaTrain

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def trained_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to: tests that do copy it."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", root)
    set_params(root / "params.yaml", infer={"num_beams": BEAMS, "max_new_tokens": TOKENS})
    set_params(root / "params.yaml", infer={"precision": "float32", "grammar": False})
    set_params(root / "params.yaml", finetune={"max_tokens": TOKENS})
    set_params(
        root / "params.yaml",
        clip_embed={
            "attributes": [{"name": group, "words": words} for group, words in WORDS.items()]
        },
    )
    (root / "metrics").mkdir()
    for name in ("scores", "finetune", "download"):
        shutil.copy(ROOT / "tests" / "example_metrics" / f"{name}.json", root / "metrics")
    write_recommendation(root, "caption")
    captioner = miniature("opt")
    (root / "models").mkdir()
    save(captioner, root / "models" / "blip2")
    adapter = root / "models" / "blip2_lora"
    write_adapter(captioner.model, adapter, ["q_proj", "v_proj"])
    (adapter / "last").mkdir()
    (adapter / "last" / "adapter_config.json").write_text("{}")
    write_grammar(SEGMENTS, adapter)
    write_clip(root / "models" / "clip", seed=3)
    write_cosines(root / "models" / "word_scorer", root / "models" / "clip", WORDS)
    shutil.copy(ROOT / "dvc.yaml", root)
    write_clip(root / "models" / "troika_clip", seed=4)
    columns = list(zip(*PAIR_ROWS, strict=True))
    rows = len(PAIR_ROWS)
    (root / "data").mkdir()
    table = pa.table([*columns, ["train"] * rows, [True] * rows, [1] * rows], schema=PAIRS)
    write_table(table, root / "data" / "pairs.parquet", PAIRS)
    troika, _ = read_params(root / "params.yaml", TroikaTrain)
    save_model(
        root / "models" / "troika",
        Vocabulary.read(root / "data" / "pairs.parquet"),
        load_clip(root / "models" / "troika_clip", CPU),
        TroikaConfig.from_params(troika),
        None,
    )
    return root


@pytest.fixture
def project(trained_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project as the working directory; not to be written to."""
    monkeypatch.chdir(trained_project)
    return trained_project


@pytest.fixture
def own_project(trained_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project as the working directory."""
    copy = tmp_path / "own"
    shutil.copytree(trained_project, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of five photos, in subfolders."""
    folder = tmp_path / "photos"
    for seed, name in enumerate(["a.png", "b/c.PNG", "b/d/e.jpg", "b/f.png", "g.webp"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpg": "JPEG", ".webp": "WEBP"}.get(path.suffix, "PNG")
        path.write_bytes(encoded(seed, kind))
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process; its exit status, standard output and standard error."""
    # What the command sets for its own process, where nothing is imported yet.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setattr("sys.warnoptions", ["default"])
    monkeypatch.setattr("transformers.utils.logging._tqdm_active", False)

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["compositional-prompts", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return command
