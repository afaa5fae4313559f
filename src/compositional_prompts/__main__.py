"""The command ``compositional-prompts``: upkeep of the pipeline, and what it was made for."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from compositional_prompts import __version__
from compositional_prompts.catalog.splitting.split_tables import SPLIT_NAMES
from compositional_prompts.deployment.advice import NO_ADVICE, Advice, read_advice
from compositional_prompts.deployment.printing import as_json, as_text
from compositional_prompts.deployment.trained_paths import (
    TrainedPaths,
    adapter_in,
    captioner_in,
    read_trained_paths,
)
from compositional_prompts.deployment.wishes import Wishes
from compositional_prompts.files.outputs import require_outputs
from compositional_prompts.pipeline.dvc_file import PipelineError, stage_paths
from compositional_prompts.pipeline.error_messages import TRACEBACK, message_of
from compositional_prompts.pipeline.garbage import garbage_collected, garbage_left
from compositional_prompts.pipeline.interruption import ending, meet_signals
from compositional_prompts.pipeline.section import ParameterError, PrecisionChoice
from compositional_prompts.pipeline.terminal_text import one_line, say
from compositional_prompts.project.damage_naming import naming_damage
from compositional_prompts.project.params_editing import set_params
from compositional_prompts.project.presets import described_presets, lay_preset
from compositional_prompts.project.source_dependencies import sync_dependencies
from compositional_prompts.project.timing_table import timing_table
from compositional_prompts.project.whole_params import Params, read_all_params
from compositional_prompts.scoring.recommended_texts import CAPTION

PRESETS = Path("presets")
PARAMS = Path("params.yaml")
BATCH_SIZE = 16
"""Photos captioned at once: few enough for the first captions to come soon."""

EXPORT_FORMS = ("hub", "jsonl", "csv", "coco", "webdataset")
EXPORT_CAPTIONS = ("recommended", "readable", "enhanced", "finetuned")
"""As ``deployment/dataset_export`` has them, which takes a second to import."""

LABEL_PHOTOS = 200
"""Photos that `label` asks for: some ten minutes of picking."""

DONE, SOME_ASIDE, NOTHING_DONE = 0, 1, 2
"""Exit statuses: all is done; some photos were set aside; nothing could be done."""

UNSOUND = 1
"""Exit status of ``doctor``: something would stop a run."""


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_positive.__name__ = "whole number of at least 1"  # what argparse calls a value it refuses


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


_whole.__name__ = "whole number"


def _gib(text: str) -> float:
    size = float(text)
    if not 0 <= size < math.inf:
        raise ValueError
    return size


_gib.__name__ = "number of GiB"


def _least_confidence(text: str) -> tuple[str, float]:
    place, _, number = text.rpartition("=")
    least = float(number)
    if not 0 <= least <= 1:
        raise ValueError
    return place or "confidence", least


_least_confidence.__name__ = "number from 0 to 1, or PLACE= before one"


def _photo(text: str) -> Path:
    if text == "-":
        raise argparse.ArgumentTypeError("standard input is not read: name files or folders")
    return Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compositional-prompts",
        description="Caption photos with what the pipeline has trained, hand it on, and look after "
        "the pipeline itself.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_caption(commands)
    _add_export(commands)
    _add_export_data(commands)
    _show_places(commands.choices)
    _add_compare(commands)
    _add_spread(commands)
    _add_label(commands)
    doctor = commands.add_parser(
        "doctor",
        help="look for what would stop a run: parameters, installation, machine, data, the hub",
        description="Look at parameters, installation, machine, project, data and, where a "
        "parameter asks for it, the hub, by the checks that the stages make. A line each: OK, "
        "warning or error, with what puts it right. Changes and downloads nothing.",
        epilog="Exit status: 0 nothing stops a run, 1 something does.",
    )
    doctor.add_argument("--params", type=Path, default=PARAMS, help="default: %(default)s")
    doctor.set_defaults(run=_doctor)
    preset = commands.add_parser(
        "preset",
        help="make params.yaml the set-up of presets/NAME.yaml and print the difference",
        description="Make params.yaml the set-up of a preset, whatever it was before, and print "
        "what that is and needs, the difference, and values of your own that are gone.",
    )
    preset.add_argument("name", nargs="?", help="without a name, list the presets")
    preset.add_argument(
        "--keep", action="append", default=[], metavar="KEY",
        help="a parameter that stays as it is, such as download.ut_zappos.path; may be repeated",
    )  # fmt: skip
    preset.set_defaults(run=_preset)
    keep = commands.add_parser(
        "keep",
        help="let Troika and the adapter stay while the catalogue grows, without training again",
        description="Set Troika and the adapter aside with what they come from: the photos, "
        "parameters, commit and metrics. DVC tracks the folder, and the modes of both stages in "
        "params.yaml become keep: `dvc repro` then names, enhances and captions new photos by "
        "these models, and trains nothing.",
        epilog="To train again: set troika_train.mode and finetune.mode to train.",
    )
    keep.add_argument("--params", type=Path, default=PARAMS, help="default: %(default)s")
    keep.set_defaults(run=_keep)
    _add_share(commands)
    _add_rows(commands)
    timing = commands.add_parser(
        "timing", help="show time and memory of every stage's last run in this folder"
    )
    timing.set_defaults(run=_timing)
    checksums = commands.add_parser(
        "checksums",
        help="write SHA256SUMS of the photos of a folder, and check those that have one",
    )
    checksums.add_argument("folder", type=Path)
    checksums.set_defaults(run=_checksums)
    sync = commands.add_parser(
        "sync-deps", help="write the source files that each stage imports into dvc.yaml"
    )
    sync.set_defaults(run=_sync)
    return parser


def _show_places(commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """Let the help name the places that ``dvc.yaml`` gives to what the options default to."""
    with suppress(PipelineError):  # whoever needs a place asks again, and says what is amiss
        paths = read_trained_paths()
        for name in ("caption", "export"):
            commands[name].set_defaults(trained=paths, adapter=paths.adapter, blip2=paths.blip2)


def _add_caption(commands: Any) -> None:
    caption = commands.add_parser(
        "caption",
        help="caption photos with the trained adapter",
        description="Describe photos by the recommended text: the caption by the newest trained "
        "adapter, as params.yaml says under infer, where dvc repro has found captions at least as "
        "right as enhanced prompts on labelled validation images; else the enhanced prompt by "
        "Troika and CLIP, from which captions are learnt. Which of them, why, and what is wrong "
        "with the captions, is said on standard error. Prints PATH<TAB>TEXT a photo, the text "
        "alone for a single file, as soon as a batch is done. A photo that cannot be used is named "
        "with its reason on standard error (and as a line of JSON), and the others go through.",
        epilog="Exit status: 0 all photos are captioned, 1 some were set aside, 2 nothing could "
        "be done.",
    )
    add = caption.add_argument
    add(
        "photos", nargs="+", type=_photo, metavar="PHOTO",
        help="an image file, or a folder that is searched through all its subfolders",
    )  # fmt: skip
    add(
        "--json", action="store_true",
        help="print a line of JSON a photo: path, caption, recommended, source (caption or "
        "enhanced), readable, and what else is asked for or was computed",
    )  # fmt: skip
    add(
        "--readable", action="store_true",
        help="print the text in a shop's words, as recommend.readable has it",
    )  # fmt: skip
    add(
        "--caption-only", action="store_true",
        help="print the caption whatever is recommended; Troika and CLIP need not be there, and "
        "start and memory are less",
    )  # fmt: skip
    add(
        "--untrained", action="store_true",
        help="add the caption of the model without the adapter (needs memory for both)",
    )  # fmt: skip
    add(
        "--enhanced", action="store_true",
        help="add the enhanced prompt: the pair by Troika, the words by CLIP",
    )  # fmt: skip
    add(
        "--scores", action="store_true",
        help="add CLIP's cosine of every word of the vocabulary, and the caption's words by place",
    )  # fmt: skip
    add("--adapter", type=Path, help="default: %(default)s")
    add("--blip2", type=Path, help="the base model; default: %(default)s")
    add("--device", choices=["cpu", "cuda", "auto"], help="default: base.device")
    add("--precision", choices=get_args(PrecisionChoice), help="default: infer.precision")
    add(
        "--batch-size", type=_positive, default=BATCH_SIZE,
        help="photos at once; default: %(default)s",
    )  # fmt: skip
    add("--num-beams", type=_positive, help="default: infer.num_beams")
    add(
        "--grammar", action=argparse.BooleanOptionalAction,
        help="write only what enhance could have written; default: infer.grammar",
    )  # fmt: skip
    add("--params", type=Path, default=PARAMS, help="default: %(default)s")
    caption.set_defaults(run=_caption, trained=None)


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="write the adapter or the merged model for plain transformers, with a model card",
        description="Write the trained adapter, or with --merged the whole model with the adapter "
        "in its weights, with processor, tokenizer, generation settings and a model card, into a "
        "folder that transformers and peft load without this package.",
    )
    add = export.add_argument
    add("out", type=Path, metavar="OUT", help="folder to write; it appears whole or not at all")
    add("--merged", action="store_true", help="the whole model instead of the adapter")
    add("--force", action="store_true", help="replace OUT if it is an earlier export")
    add(
        "--base", metavar="NAME",
        help="where users of the adapter have its base model: a repository of the hub, or a "
        "folder; default: the repository that weights.blip2 names, else --blip2",
    )  # fmt: skip
    add(
        "--license", metavar="ID",
        help="licence of what is exported, as the hub names it; default: mit for what this "
        "project generates and trains all by itself, else other",
    )  # fmt: skip
    add("--adapter", type=Path, help="default: %(default)s")
    add("--blip2", type=Path, help="the base model; default: %(default)s")
    add(
        "--precision", choices=["float32", "bfloat16", "float16"],
        help="of the merged weights; default: infer.precision",
    )  # fmt: skip
    _add_push(export)
    add("--params", type=Path, default=PARAMS, help="default: %(default)s")
    export.set_defaults(run=_export, trained=None)


def _add_export_data(commands: Any) -> None:
    export = commands.add_parser(
        "export-data",
        help="write the photos with their captions as a data set: for the hub, a shop, a training",
        description="Write the enhanced prompts and captions, the words that they say and how sure "
        "each is, with their photos, in a form that others read, with a card that says where it is "
        "from and how true it is. What is left out is counted and said.",
    )
    add = export.add_argument
    add("out", type=Path, metavar="OUT", help="folder to write; it appears whole or not at all")
    add(
        "--form", choices=EXPORT_FORMS, required=True,
        help="hub: Parquet that datasets decodes; jsonl: lines beside photos, an imagefolder; csv: "
        "a table for a shop's import, without photos; coco: captions JSON and photos; webdataset: "
        "tar files",
    )  # fmt: skip
    add(
        "--captions", choices=EXPORT_CAPTIONS,
        help="which text is the caption: what is recommended, the same in a shop's words "
        "(readable), the enhanced prompt, or the fine-tuned BLIP-2's; default: readable for csv, "
        "else recommended",
    )  # fmt: skip
    add(
        "--split", action="append", choices=["train", "val", "test", "all"],
        help="may be repeated; default: all",
    )  # fmt: skip
    add(
        "--min-confidence", metavar="[PLACE=]X",
        action="append", type=_least_confidence, default=[],
        help="leave out rows that say something less sure than X, a probability from 0 to 1: "
        "calibrated where something calibrates, else by the softmax of scores; with PLACE (pair, "
        "or a group) what they say there alone; may be repeated",
    )  # fmt: skip
    add(
        "--only-new", action="append", nargs="?", const="HEAD", default=[], metavar="EARLIER",
        help="leave out what an earlier export (its folder) or a revision of the project had, "
        "photo and caption; without EARLIER the last commit; may be repeated",
    )  # fmt: skip
    add("--force", action="store_true", help="replace OUT if it is an earlier export")
    add(
        "--license", metavar="ID",
        help="licence of what is exported, as the hub names it; default: mit for what this project "
        "draws itself, else other",
    )  # fmt: skip
    _add_push(export)
    add("--params", type=Path, default=PARAMS, help="default: %(default)s")
    export.set_defaults(run=_export_data)


def _add_push(export: argparse.ArgumentParser) -> None:
    pushing = export.add_argument_group(
        "to the Hugging Face hub", "nothing is pushed unless --push is given"
    )
    add = pushing.add_argument
    add("--push", metavar="OWNER/NAME", help="push OUT to this repository, made private if new")
    add("--public", action="store_true", help="let everybody see it")
    add("--revision", metavar="BRANCH", help="branch to push to; default: the repository's own")
    add("--message", metavar="TEXT", help="of the commit")


def _add_share(commands: Any) -> None:
    share = commands.add_parser(
        "share",
        help="push or fetch what was run, so that nothing is computed twice, or check a remote",
        description="Push to a remote of DVC, fetch from it, or check there, DVC's records of all "
        "runs and every object that they name. `dvc push --run-cache` pushes the objects of the "
        "workspace alone.",
        epilog="Exit status: 0 all is whole, 1 some records are not and were left out, 2 nothing "
        "could be done.",
    )
    actions = share.add_subparsers(dest="action", required=True)
    push = actions.add_parser("push", help="push every run, its objects before its record")
    pull = actions.add_parser(
        "pull", help="fetch the records, by which `dvc repro --pull` finds what was run"
    )
    pull.add_argument("--all", action="store_true", help="and all outputs that they name")
    verify = actions.add_parser("verify", help="check that what records name is there and sound")
    verify.add_argument(
        "--content", action="store_true", help="read every object and check its MD5 (a download)"
    )
    verify.add_argument(
        "--remove", action="store_true",
        help="remove what is damaged and records that are not whole; push then brings them again",
    )  # fmt: skip
    for action in (push, pull, verify):
        action.add_argument("-r", "--remote", help="name of a remote; default: DVC's default one")
    share.set_defaults(run=_share)


def _add_rows(commands: Any) -> None:
    rows = commands.add_parser(
        "rows",
        help="show what was computed of the photos and is kept, remove some of it, or check it",
        description="Show what base.rows.path keeps of earlier runs: every computation with its "
        "rows, size and last use, and what decides them. What is not kept is computed again.",
        epilog="Exit status: 0 all is done and sound, 1 something is damaged or in use, 2 nothing "
        "could be done.",
    )
    actions = rows.add_subparsers(dest="action")
    prune = actions.add_parser("prune", help="remove what was not used for longest")
    which = prune.add_mutually_exclusive_group()
    which.add_argument(
        "--to", type=_gib, metavar="GIB", help="until so much is left; default: base.rows.max_gib"
    )
    which.add_argument(
        "--computation", metavar="NAME", help="this one alone: NAME, or NAME/FINGERPRINT"
    )
    which.add_argument("--all", action="store_true", help="everything")
    verify = actions.add_parser("verify", help="read everything; what is damaged is set aside")
    rows.add_argument("--params", type=Path, default=PARAMS, help="default: %(default)s")
    for action in (prune, verify):
        action.add_argument("--params", type=Path, default=argparse.SUPPRESS)
    rows.set_defaults(run=_rows)


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="show the captions of two revisions side by side on one page",
        description="Write a page, one file as the report is, with the fine-tuned captions of two "
        "revisions on the photos that both captioned: what changed, what is better and worse by "
        "labels and truth, and the figures of both. Nothing is checked out; what DVC's cache "
        "lacks is named with the command that fetches it.",
    )
    add = compare.add_argument
    add("first", metavar="REV_A", help="a commit, branch, tag, or experiment")
    add("second", metavar="REV_B", nargs="?", help="another; default: the workspace")
    add("--page", type=Path, default=Path("compare.html"), help="default: %(default)s")
    add("--photos", type=_positive, help="most photos on the page; default: report.photos")
    add("--params", type=Path, default=PARAMS, help="default: %(default)s")
    compare.set_defaults(run=_compare)


def _add_spread(commands: Any) -> None:
    spread = commands.add_parser(
        "spread",
        help="print mean and standard deviation of the figures of several runs",
        description="Take the headline figures (metrics/summary.json) of several revisions, as of "
        "a queue of experiments with other seeds, and print mean, standard deviation (by n - 1), "
        "least and most of each, and which parameters are not the same in all.",
    )
    spread.add_argument(
        "revisions", metavar="REV", nargs="+",
        help="commits, branches, tags, experiments, or the word workspace; two at least",
    )  # fmt: skip
    spread.set_defaults(run=_spread)


def _add_label(commands: Any) -> None:
    label = commands.add_parser(
        "label",
        help="write a page that asks people for the labels that help most",
        description="Choose the photos whose label teaches most, those that the model is unsure of "
        "and that are unlike one another, and write a page, one file that works offline, on which "
        "people pick their words, and a CSV of them beside it. Only training photos without a "
        "known word are asked for. What was picked is downloaded as a CSV; put it into the folder "
        "labels/ and run `dvc repro`.",
    )
    add = label.add_argument
    add("groups", nargs="*", metavar="GROUP", help="of clip_embed.attributes; default: all")
    add(
        "--photos", type=_positive, default=LABEL_PHOTOS,
        help="how many, over all groups; default: %(default)s",
    )  # fmt: skip
    add(
        "--for", dest="purpose", choices=["learning", "measuring"], default="learning",
        help="measuring: validation and test photos drawn at random, and no suggestions, so that "
        "figures on them hold for all; default: %(default)s",
    )  # fmt: skip
    add("--seed", type=_whole, help="what chance follows from; default: base.seed")
    add(
        "--page", type=Path, default=Path("label.html"),
        help="the CSV beside it has its name; default: %(default)s",
    )  # fmt: skip
    add("--params", type=Path, default=PARAMS, help="default: %(default)s")
    label.set_defaults(run=_label)


def _label(arguments: argparse.Namespace) -> int:
    # Here, since it imports what draws pages, which other commands need not wait for.
    labelling = importlib.import_module("compositional_prompts.labelling.label_round")
    page = arguments.page
    if page.is_dir() or page.suffix == ".csv":
        raise ValueError(f"--page {page}: name a file to write, such as label.html")
    params = read_all_params(arguments.params)
    settings = labelling.RoundSettings(
        groups=tuple(dict.fromkeys(arguments.groups)) or tuple(params.clip_embed.vocabulary),
        photos=arguments.photos,
        purpose=arguments.purpose,
        seed=params.base.seed if arguments.seed is None else arguments.seed,
        workers=params.base.workers,
    )
    paths = labelling.round_paths(stage_paths())
    with naming_damage(paths.read):
        said = labelling.write_round(
            paths, params.clip_embed.vocabulary, settings, page, page.with_suffix(".csv")
        )
    say(said)
    return DONE


def _compare(arguments: argparse.Namespace) -> int:
    # Here, since it imports what draws pages, which other commands need not wait for.
    comparing = importlib.import_module("compositional_prompts.reporting.comparing.comparison_page")
    page = arguments.page
    if page.is_dir():
        raise ValueError(f"--page {page} is a folder: name a file, such as {page / 'compare.html'}")
    params = read_all_params(arguments.params)
    settings = comparing.ComparisonSettings(
        photos=arguments.photos or params.report.photos,
        seed=params.base.seed,
        workers=params.base.workers,
    )
    with naming_damage(stage_paths().get("report", {}).values()):
        said = comparing.write_comparison(arguments.first, arguments.second, page, settings)
    say(f"{page}: {said}")
    return DONE


def _spread(arguments: argparse.Namespace) -> int:
    spread = importlib.import_module("compositional_prompts.reporting.comparing.seed_spread")
    found = spread.spread_over(arguments.revisions)
    if found.beside_seeds:
        names = ", ".join(found.beside_seeds)
        _complain(f"warning: the runs differ in more than seeds: {names}.")
    say(spread.as_table(found))
    return DONE


def _preset(arguments: argparse.Namespace) -> int:
    if arguments.name is None:
        say(described_presets(PRESETS))
    else:
        say(
            lay_preset(arguments.name, PARAMS, PRESETS, arguments.keep)
            or "params.yaml is so already."
        )
    return DONE


def _keep(arguments: argparse.Namespace) -> int:
    # Here, since it imports what reads tables, which other commands need not wait for.
    keeping = importlib.import_module("compositional_prompts.growth.keeping")
    params = arguments.params
    read_all_params(params)
    with naming_damage(keeping.tables_read(stage_paths()).values()):
        kept = keeping.keep_models()
    set_params(params, kept.params)
    say("\n".join(kept.models))
    say(f"{params}: {' and '.join(kept.params)} are keep now: `dvc repro` trains nothing.")
    tracked = f"{kept.root}.dvc {kept.root.parent / '.gitignore'}"
    say("Commit it after that, and push it with the rest:")
    say(f"  dvc repro && git add {tracked} {params} dvc.lock && git commit && dvc push")
    return DONE


def _share(arguments: argparse.Namespace) -> int:
    sharing = importlib.import_module("compositional_prompts.project.run_sharing")
    if arguments.action == "push":
        shared, copied = sharing.push_runs(arguments.remote), "pushed"
    elif arguments.action == "pull":
        shared, copied = sharing.pull_runs(arguments.remote, arguments.all), "fetched"
    else:
        shared = sharing.verify_runs(arguments.remote, arguments.content, arguments.remove)
        copied = ""
    for sentence in shared.incomplete:
        _complain(sentence)
    if not (shared.records or shared.incomplete or arguments.action == "push"):
        say(
            f"The remote {shared.remote} holds no runs: `compositional-prompts share push` pushes "
            "what was run."
        )
        return DONE
    count = sharing.counted
    records, objects = count(shared.copied, "record"), count(shared.objects, "object")
    news = f"; {records} and {objects} {copied}" if copied else ""
    say(f"{count(shared.records, 'run')} {'is' if shared.records == 1 else 'are'} whole{news}.")
    return SOME_ASIDE if shared.incomplete else DONE


def _rows(arguments: argparse.Namespace) -> int:
    keeping = importlib.import_module("compositional_prompts.project.kept_rows")
    kept = read_all_params(arguments.params).base.rows
    if arguments.action == "prune":
        said, done = keeping.pruned(
            kept, to_gib=arguments.to, only=arguments.computation, everything=arguments.all
        )
        say("\n".join(said))
        return DONE if done else SOME_ASIDE
    if arguments.action == "verify":
        return DONE if keeping.verified(kept, say) else SOME_ASIDE
    say(keeping.listing(kept, time.time()))
    return DONE


def _timing(_: argparse.Namespace) -> int:
    say(timing_table())
    return DONE


def _doctor(arguments: argparse.Namespace) -> int:
    examination = _with_torch("compositional_prompts.diagnosis.examination", offline=False)
    errors = 0
    for finding in examination.examine(arguments.params):
        say(finding)
        errors += finding.level == "error"
    return UNSOUND if errors else DONE


def _checksums(arguments: argparse.Namespace) -> int:
    checksums = importlib.import_module("compositional_prompts.datasets.folders.checksums")
    say(checksums.write_checksums(arguments.folder))
    return DONE


def _sync(_: argparse.Namespace) -> int:
    changed = sync_dependencies(Path())
    say("\n".join(changed) if changed else "dvc.yaml is in step with the imports.")
    return DONE


def _caption(arguments: argparse.Namespace) -> int:
    params = read_all_params(arguments.params)
    blip2 = arguments.blip2 or _trained(arguments).blip2
    adapter = arguments.adapter or _trained(arguments).adapter
    require_outputs(captioner_in(blip2), adapter_in(adapter))
    advice = _advice(arguments, adapter)
    wishes = Wishes(
        arguments.untrained,
        arguments.enhanced,
        arguments.scores,
        recommended=None if arguments.caption_only else advice.recommended,
        readable=arguments.readable or not arguments.caption_only,
    )
    grammar = params.infer.grammar if arguments.grammar is None else arguments.grammar
    beside = list(_suggesting(arguments, wishes, grammar))
    require_outputs(*beside)
    with naming_damage([*beside, blip2, adapter]):
        return _caption_and_print(arguments, params, blip2, adapter, wishes)


def _caption_and_print(
    arguments: argparse.Namespace, params: Params, blip2: Path, adapter: Path, wishes: Wishes
) -> int:
    captioning = _with_torch("compositional_prompts.deployment.captioning")
    records = captioning.caption_photos(
        arguments.photos,
        captioning.with_overrides(
            params,
            device=arguments.device,
            precision=arguments.precision,
            num_beams=arguments.num_beams,
            grammar=arguments.grammar,
        ),
        blip2=blip2,
        adapter=adapter,
        wishes=wishes,
        batch_size=arguments.batch_size,
    )
    single = len(arguments.photos) == 1 and not arguments.photos[0].is_dir()
    text = "caption" if arguments.caption_only else "recommended"
    text = "readable" if arguments.readable else text
    # Of what text is printed, the enhanced prompt may stand in the record all the same.
    hidden = () if arguments.enhanced or arguments.json else ("enhanced",)
    records = ({key: record[key] for key in record if key not in hidden} for record in records)
    return _print_records(records, None if arguments.json else text, with_path=not single)


def _advice(arguments: argparse.Namespace, adapter: Path) -> Advice:
    """Which text is recommended; said, with what is wrong with captions, on standard error."""
    if arguments.caption_only and arguments.trained is None:
        return NO_ADVICE  # outside of a project
    advice = read_advice(adapter, _trained(arguments))
    if not arguments.caption_only:
        what = "caption" if advice.recommended == CAPTION else "enhanced prompt"
        _complain(f"the {what} is recommended: {advice.reason}")
    for sentence in advice.warnings:
        _complain(f"warning: {sentence}")
    return advice


def _suggesting(arguments: argparse.Namespace, wishes: Wishes, grammar: bool) -> Iterator[Path]:
    """What it takes beside the captioner."""
    pairs = wishes.names_pairs(grammar)
    if pairs:
        yield from _trained(arguments).pair_files
    if pairs or wishes.scores:
        yield from _trained(arguments).word_files
    if wishes.reads_captions:
        yield _trained(arguments).pairs


def _trained(arguments: argparse.Namespace) -> TrainedPaths:
    return arguments.trained or read_trained_paths()  # the latter says why there are none


def _print_records(records: Iterator[dict[str, Any]], text: str | None, with_path: bool) -> int:
    """Print each as soon as it is there: one of its texts, or all of it as JSON."""
    captioned = aside = 0
    for record in records:
        if "error" in record:
            aside += 1
            detail = f" ({record['detail']})" if "detail" in record else ""
            _complain(one_line(f"{record['path']}: {record['error']}{detail}"))
        else:
            captioned += 1
        if text is None:
            say(as_json(record))
        elif "caption" in record:
            say(as_text(record, with_path, text))
    if not captioned:
        return NOTHING_DONE
    return SOME_ASIDE if aside else DONE


def _export(arguments: argparse.Namespace) -> int:
    params = read_all_params(arguments.params)
    trained = _trained(arguments)
    blip2, adapter = arguments.blip2 or trained.blip2, arguments.adapter or trained.adapter
    told = trained.card_files if adapter == trained.adapter else ()
    require_outputs(captioner_in(blip2), adapter_in(adapter), *told)
    push = _push(arguments, "model")
    exporting = _with_torch("compositional_prompts.deployment.export", offline=push is None)
    exporting.export(
        arguments.out,
        params,
        blip2=blip2,
        adapter=adapter,
        merged=arguments.merged,
        base=arguments.base,
        license_id=arguments.license,
        precision=arguments.precision,
        force=arguments.force,
    )
    say(f"{arguments.out}: see its README.md")
    if push is not None:
        say(push.upload(arguments.out))
    return DONE


def _export_data(arguments: argparse.Namespace) -> int:
    params = read_all_params(arguments.params)
    push = _push(arguments, "dataset")
    exporting = _quietly("compositional_prompts.deployment.dataset_export.data_export")
    chosen = arguments.split or ["all"]
    settings = exporting.ExportSettings(
        form=arguments.form,
        captions=arguments.captions or ("readable" if arguments.form == "csv" else "recommended"),
        splits=SPLIT_NAMES if "all" in chosen else tuple(chosen),
        min_confidence=dict(arguments.min_confidence),
        earlier=arguments.only_new,
        license_id=arguments.license,
        force=arguments.force,
    )
    paths = exporting.export_paths(stage_paths())
    with naming_damage(paths.read(settings.captions)):
        counts = exporting.export_data(arguments.out, params, paths, settings)
    said, *more = counts.sentences()
    say("\n  ".join([f"{arguments.out}: {said}; see its README.md", *more]))
    if push is not None:
        say(push.upload(arguments.out))
    return DONE


def _push(arguments: argparse.Namespace, kind: str) -> Any:
    """Where to push, asked before the work whether it can be; None where nothing is pushed."""
    if arguments.push is None:
        for name in ("public", "revision", "message"):
            if getattr(arguments, name):
                raise ValueError(f"--{name} is of what is pushed: give --push OWNER/NAME with it.")
        return None
    pushing = _quietly("compositional_prompts.deployment.publishing.hub_push")
    push = pushing.Push(
        arguments.push, kind, arguments.revision, arguments.message, arguments.public
    )
    push.check()
    return push


def _with_torch(name: str, *, offline: bool = True) -> Any:
    """A module that computes with torch: seconds to import, which other commands need not wait."""
    if offline:  # what is not on this machine is an error that says so
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return _quietly(name)


def _quietly(name: str) -> Any:
    """A module above libraries that tell what people cannot act on."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        # Libraries telling one another what to change, and Pillow of odd metadata beside pixels
        # that are fine.
        warnings.simplefilter("ignore")
    with garbage_left():
        return importlib.import_module(name)


def _complain(message: str) -> None:
    say(f"compositional-prompts: {message}", file=sys.stderr)


def main() -> None:
    """Run one command from the project's root; exit with 2 and a reason if it cannot be done."""
    arguments = _parser().parse_args()
    try:
        meet_signals()
        with garbage_collected():
            sys.exit(arguments.run(arguments))
    except KeyboardInterrupt as interrupt:
        said, status = ending(interrupt)
        _complain(said)
        sys.exit(status)
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing is left to be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(SOME_ASIDE)
    except (ParameterError, ValueError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get(TRACEBACK):
            raise
        _complain(message_of(error))
        sys.exit(NOTHING_DONE)


if __name__ == "__main__":
    main()
