"""Memory at the peak while a photo is decoded, in bytes a pixel, by format and kind of pixels.

What ``datasets/image_limits.py`` judges headers by. Each photo is noise of 2,000 x 1,500 pixels and
is decoded twice in a process of its own; the second time is measured, from the peak of the
process's resident memory (Linux alone: ``/proc/self/clear_refs``).

    python benchmarks/decoding_memory.py
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from compositional_prompts.catalog.images import decode_rgb

WIDTH, HEIGHT = 2000, 1500
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "JPEG": ("RGB", "JPEG", {}),
    "JPEG, turned by EXIF": ("RGB", "JPEG", {"exif": True}),
    "JPEG, CMYK": ("CMYK", "JPEG", {}),
    "PNG": ("RGB", "PNG", {}),
    "PNG, grey": ("L", "PNG", {}),
    "PNG, 16-bit grey": ("I;16", "PNG", {}),
    "PNG, palette": ("P", "PNG", {}),
    "PNG, palette with a transparent colour": ("P", "PNG", {"transparency": 0}),
    "PNG, transparent": ("RGBA", "PNG", {}),
    "PNG, grey and transparent": ("LA", "PNG", {}),
    "WEBP": ("RGB", "WEBP", {}),
    "WEBP, transparent": ("RGBA", "WEBP", {}),
    "AVIF": ("RGB", "AVIF", {"speed": 10}),
    "AVIF, transparent": ("RGBA", "AVIF", {"speed": 10}),
    "TIFF, transparent": ("RGBA", "TIFF", {}),
    "GIF, transparent": ("P", "GIF", {"transparency": 0}),
}


def write(kind: str, path: Path) -> None:
    mode, file_format, options = KINDS[kind]
    noise = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    rgba = Image.fromarray(noise)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16))
    else:
        image = rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif}
    image.save(path, file_format, **options)


def peak(path: Path) -> float:
    """Of a photo of that size, in bytes a pixel."""
    encoded = path.read_bytes()
    decode_rgb(encoded)
    Path("/proc/self/clear_refs").write_text("5")
    before = _most_resident()
    decode_rgb(encoded)
    return (_most_resident() - before) / (WIDTH * HEIGHT)


def _most_resident() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo", type=Path, help="of this one alone, in this process")
    photo = parser.parse_args().photo
    if photo is not None:
        print(f"{peak(photo):.1f}")
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder, "photo")
            write(kind, path)
            again = [sys.executable, __file__, "--photo", str(path)]
            found = subprocess.run(again, check=True, capture_output=True, text=True)
            print(f"{kind:40} {found.stdout.strip():>5}", flush=True)


if __name__ == "__main__":
    main()
