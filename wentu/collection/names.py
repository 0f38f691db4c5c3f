"""What is a picture? By its name, and by its first bytes where the name says nothing.

By name, because opening a million files takes hours: the extension decides, in any case of letters,
and the decoder looks at the bytes later, so a PNG called .jpg is no matter. Only names that say
nothing (no extension, ``mmexport.jpg!large``, ``cache.0``) are opened, for 32 bytes.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXTENSIONS = _words(
    "jpg jpeg jpe jfif pjpeg pjp png apng webp gif bmp dib tif tiff mpo heic heics heif heifs hif "
    "avif avifs jp2 j2k j2c jpc jpf jpx ppm pgm pbm pnm pfm"
)
"""Of pictures that wentu/pictures reads, lower case, without the dot."""

VIDEOS = _words(
    "mp4 m4v mov qt avi mkv webm wmv asf flv f4v 3gp 3g2 mpg mpeg mpe m2v vob ts mts m2ts mod tod "
    "rm rmvb ogv dv divx insv lrv"
)
UNSUPPORTED = _words(
    # drawings and documents; livp is Apple's live photo, zipped by Chinese cloud drives
    "svg svgz psd psb ai eps cdr xcf kra clip procreate sketch fig emf wmf livp "
    # other coders
    "jxl jxr wdp hdp bpg flif tga pcx ico cur icns dds exr hdr qoi djvu "
    # cameras' raw files
    "dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 raf raw rwl pef srw x3f 3fr fff erf kdc dcr mrw "
    "iiq mos mef gpr"
)
"""Pictures that are not read: exporting them as JPEG or PNG is up to their owner."""

_JUNK_FILES = {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"}
_JUNK_ENDS = re.compile(r"\.[0-9a-z]{1,5}(~|_original)\Z")  # what editors and exiftool keep
_JUNK_FOLDERS = {
    *("@eadir", "@tmp", "#recycle", "#snapshot"),  # Synology
    *("@recycle", "@recently-snapshot"),  # QNAP
    *("$recycle.bin", "system volume information"),  # Windows
    *("__macosx", "lost+found", "network trash folder", "temporary items"),  # macOS, Linux
}
_EXTENSION = re.compile(r"\.([0-9A-Za-z]{1,12})\s*\Z")
SNIFFED = 32
"""Bytes that tell, of a file whose name says nothing."""

_STARTS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(start, re.DOTALL), kind)
    for start, kind in (
        (rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|II[*+]\0|MM\0[*+]", "picture"),
        (rb"BM.{12}[\x0c\x28\x6c\x7c]\0\0\0|\0\0\0\x0cjP  |\xff\x4f\xff\x51", "picture"),
        (rb"P[1-6fF]\s+(#[^\n]*\n\s*)?[0-9]", "picture"),
        (rb"....ftyp(....)*?(avi[fs]|he[iv][cxms]|mi[fa][12f]|msf1)", "picture"),
        (rb"....ftypcrx |FUJIFILMCCD|8BPS|\xff\x0a|\0\0\0\x0cJXL |<svg", "unsupported"),
        (rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|\0\0\x01[\xba\xb3]", "video"),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11|\.RMF", "video"),
    )
)
"""How files begin: what ``pictures`` reads first."""


def is_junk_folder(name: str) -> bool:
    """Is it one that systems make, or a hidden one?"""
    return name.startswith(".") or name.lower() in _JUNK_FOLDERS


def kind_of_name(name: str) -> str:
    """``picture``, ``unknown`` (its first bytes would tell) or one of KINDS, of a file's name."""
    lower = name.lower()
    stem, _, extension = lower.rpartition(".")
    if extension in EXTENSIONS and stem and stem[0] != ".":
        return "picture"  # nearly all of a million, and nothing below would say otherwise
    if name.startswith(".") or lower in _JUNK_FILES or _JUNK_ENDS.search(lower):
        return "junk"
    found = _EXTENSION.search(lower)
    extension = found[1] if found else ""
    if not extension or extension.isdigit():
        return "unknown"
    if extension in EXTENSIONS:
        return "picture"
    if extension in VIDEOS:
        return "video"
    return "unsupported" if extension in UNSUPPORTED else "other"


def kind_of_bytes(start: bytes) -> str:
    """``picture`` or one of KINDS, of the first 32 bytes of a file."""
    return next((kind for begins, kind in _STARTS if begins.match(start)), "other")
