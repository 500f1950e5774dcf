"""Names the type of files that are not accepted images, for error messages only.

HEIC and AVIF are not read: a file of a few KiB that says it is small can hold a picture of 268 megapixels, which their
decoders find out when they have decoded it. The other formats say what they cost at their beginning.
"""

from __future__ import annotations

import re

SAVE_ANEW = "; save it as JPEG or PNG"
UNREAD_EXTENSIONS = frozenset(
    (".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpx", ".jxl", ".jxr", ".svg", ".psd", ".exr", ".hdr", ".tga")
    + (".dcm", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".ico", ".icns", ".eps", ".pcx", ".dds")
)
BEGINNING = 1024  # bytes that are looked at
_JPEG = rb"\xff\xd8\xff"

# How files begin -> what they are, and what helps.
_KINDS = {
    rb".{4}ftyp(?:avif|avis)": f"AVIF{SAVE_ANEW}",
    rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)": f"HEIC{SAVE_ANEW}",
    rb".{4}ftyp": "a film, such as MP4; take pictures from it first",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": f"JPEG 2000{SAVE_ANEW}",
    rb"\0\0\0\x0cJXL |\xff\x0a": f"JPEG XL{SAVE_ANEW}",
    rb"8BPS": f"Photoshop{SAVE_ANEW}",
    rb"\0\0\x01\0.\0": f"an icon{SAVE_ANEW}",
    rb".{128}DICM": f"DICOM{SAVE_ANEW}",
    rb"%!PS|\xc5\xd0\xd3\xc6": f"PostScript{SAVE_ANEW}",
    rb"%PDF-": f"PDF{SAVE_ANEW}",
    rb"version https://git-lfs": "a pointer of git-lfs; get the files with git lfs pull",
    rb"/annex/objects/": "a pointer of git-annex; get the files with git annex get",
    rb"PK\x03\x04|PK\x05\x06": "a zip; unpack it, or give it to mlflow-resnet convert",
    rb"\x1f\x8b": "a gzip; unpack it",
    rb"\x93NUMPY": f"an array of numpy{SAVE_ANEW}",
    rb"PAR1": "a Parquet table; mlflow-resnet convert reads tables",
    rb"\x80[\x02-\x05]": f"a pickle, which could run any code{SAVE_ANEW}",
    rb"\0+\Z": "nothing but zeros, as a broken copy leaves",
    rb"\s*<(?:svg|[?!].*<svg)": f"SVG{SAVE_ANEW}",
    rb"\s*<(?:!doctype html|html|head|body)": "an HTML page, as a failed download leaves; download it again",
    rb"\s*<(?:\?xml|error)": "XML, as a failed download leaves; download it again",
    rb"\s*[\[{]\s*[\"\[{\]}]": "JSON, and no picture",
    rb"[\t\n\r -~]+\Z": "text, and no picture",
}
_ALL = [(re.compile(begins, re.DOTALL | re.IGNORECASE), what) for begins, what in _KINDS.items()]


def describe_content(content: bytes) -> str:
    """Returns what `content` is instead of an image, and a remedy; empty if unknown."""
    beginning = content[:BEGINNING].removeprefix(b"\xef\xbb\xbf")
    if found := re.search(_JPEG, content[1:64]):
        return f"a JPEG that begins {found.start() + 1} bytes late; save it anew"
    return next((what for begins, what in _ALL if begins.match(beginning)), "")
