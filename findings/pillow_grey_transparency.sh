#!/usr/bin/env bash
# Package: pillow 13.0.0.
# Expected: a grey PNG that names one grey as transparent (chunk tRNS) is transparent there after
#     convert("RGBA"), whatever its bits a pixel; the PNG specification compares the value as
#     stored.
# Happens: with 1 and 8 bits it is. With 2 and 4 bits Pillow spreads the pixels over 0 to 255, but
#     not the transparent value: nothing becomes transparent, or another grey would.
set -euo pipefail
sed -n '/^#!/d; /^#/!q; s/^# *//p' "$0"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset PYTHONPATH
python3 -m venv "$folder/venv"
export PATH="$folder/venv/bin:$PATH"
pip install --quiet pillow==13.0.0
cd "$folder"

python - <<'PYTHON'
import io
import struct
import sys
import zlib

from PIL import Image


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def grey_png(bits, first, second, transparent):
    """Two grey pixels of ``bits`` bits each."""
    packed = ((first << bits | second) << (16 - 2 * bits)).to_bytes(2)[: (2 * bits + 7) // 8]
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)),
            chunk(b"tRNS", struct.pack(">H", transparent)),
            chunk(b"IDAT", zlib.compress(b"\0" + packed)),
            chunk(b"IEND", b""),
        )
    )


seen = {}
for bits in (1, 2, 4, 8):
    with Image.open(io.BytesIO(grey_png(bits, 1, 0, transparent=1))) as image:
        rgba = image.convert("RGBA")
    pixels = [rgba.getpixel((x, 0)) for x in (0, 1)]
    seen[bits] = [alpha for *_, alpha in pixels]
    print("Seen:" if bits == 1 else "     ", f"{bits} bits, pixels 1 and 0, transparent is 1:", *pixels)
if seen != {1: [0, 255], 2: [255, 255], 4: [255, 255], 8: [0, 255]}:
    sys.exit("CHANGED: this is no longer so.")
PYTHON
