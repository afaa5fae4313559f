"""The command ``compositional-prompts``: presets, and upkeep of the pipeline's definition."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compositional_prompts.params import ParameterError
from compositional_prompts.pipeline import sync_dependencies
from compositional_prompts.presets import available_presets, lay_preset

PRESETS = Path("presets")
PARAMS = Path("params.yaml")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="compositional-prompts", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    preset = commands.add_parser(
        "preset", help="lay presets/NAME.yaml on params.yaml and print the difference"
    )
    preset.add_argument("name", nargs="?", help="without a name, list the presets")
    commands.add_parser(
        "sync-deps", help="write the source files that each stage imports into dvc.yaml"
    )
    return parser


def main() -> None:
    """Run one command from the project's root; exit with 2 and a reason if it cannot be done."""
    arguments = _parser().parse_args()
    try:
        if arguments.command == "sync-deps":
            changed = sync_dependencies(Path())
            print("\n".join(changed) if changed else "dvc.yaml is in step with the imports.")
        elif arguments.name is None:
            print("\n".join(available_presets(PRESETS)))
        else:
            print(lay_preset(arguments.name, PARAMS, PRESETS) or "params.yaml is so already.")
    except (ParameterError, FileNotFoundError) as error:
        print(f"compositional-prompts: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
