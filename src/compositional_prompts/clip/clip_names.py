"""How a CLIP on the hub is named in ``params.yaml``."""

from __future__ import annotations

HUB_PREFIX = "hf-hub:"
"""How a CLIP's name begins that is a repository of the hub, and no model name of open_clip."""


def check_clip_name(name: str, pretrained: str | None) -> None:
    """Raise :class:`ValueError` unless this can name a CLIP on the hub: a repository, or a model
    of open_clip and the tag of its weights.
    """
    if name.startswith(HUB_PREFIX):
        if name.count("/") != 1:
            raise ValueError(f"name must be {HUB_PREFIX}ORGANISATION/REPOSITORY, found {name!r}")
    elif pretrained is None:
        raise ValueError(
            f"name {name!r} needs a `pretrained` tag, found null: open_clip.list_pretrained() "
            f"gives the tags; or name a repository, {HUB_PREFIX}ORGANISATION/REPOSITORY"
        )
