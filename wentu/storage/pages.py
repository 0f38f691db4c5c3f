"""A page of a listing out of its XML: botocore's own parser takes forty times as long as this.

Of a million keys that is most of the time that an inventory takes. This handler sees the answers to
ListObjectsV2 before botocore does and leaves it an empty one. Pages as servers usually write them,
plain ASCII with the fields in the usual order, are taken apart by one pattern, which has to fit
every byte; any other page is parsed as XML.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

EVENT = "before-parse.*.ListObjectsV2"
"""With the star for "s3" it comes before botocore's handlers, one of which parses the page too."""
PAGE = "WentuPage"
"""Where in botocore's answer the page is."""
Listed = tuple[str, int, str, str]
"""Key, size, ETag without quotes, when it was changed (ISO 8601); of a folder only the key."""
Page = tuple[list[Listed], str | None]
"""The objects and folders of a page, and what the next one is asked for with."""
_FIRST, _END = b"<Contents>", b"</Contents>"
_OTHER = r"(?:<(?!/?(?:Key|LastModified|ETag|Size|Contents)>)/?[A-Za-z]+>[^<&\r]*+)*+"
_CONTENTS = re.compile(
    rf"\s*<Contents>\s*{_OTHER}<Key>([^<&\r]*)</Key>\s*{_OTHER}"
    rf"<LastModified>([^<&\r]*)</LastModified>\s*{_OTHER}"
    rf"<ETag>(?:&quot;|&#34;|\")?([0-9A-Za-z-]*)(?:&quot;|&#34;|\")?</ETag>\s*{_OTHER}"
    rf"<Size>([0-9]+)</Size>\s*{_OTHER}</Contents>"
)


def read(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Handler of EVENT: (entries, continuation token or None) as ``answer[PAGE]``."""
    body = response_dict["body"]
    if response_dict["status_code"] != 200 or b"<ListBucketResult" not in body[:500]:
        return  # an error, which botocore knows
    try:
        customized_response_dict[PAGE] = parse(body)
    except ElementTree.ParseError:
        return  # cut off on the way: botocore finds that too, and asks again
    response_dict["body"] = b"<ListBucketResult/>"


def parse(body: bytes) -> Page:
    """A page out of its XML; ParseError where that is broken."""
    first, end = body.find(_FIRST), body.rfind(_END) + len(_END)
    # What fits the pattern, and what lies between: nothing, or the page is of another kind.
    fields = _CONTENTS.split(body[first:end].decode()) if first >= 0 and body.isascii() else []
    if not fields or any(fields[::5]) or b"<!" in body:
        return _of_xml(body)
    keys, changed, etags, sizes = (fields[at::5] for at in range(1, 5))
    folders, following, encoded = _around(ElementTree.fromstring(body[:first] + body[end:]))
    if encoded:
        keys = _unquoted(keys)
    return [*zip(keys, map(int, sizes), etags, changed, strict=True), *folders], following


def _of_xml(body: bytes) -> Page:
    """The same of any page, slower."""
    root = ElementTree.fromstring(body)
    folders, following, encoded = _around(root)
    space = _space(root)
    key, size, etag, changed = (space + name for name in ("Key", "Size", "ETag", "LastModified"))
    entries: list[Listed] = []
    for each in root.iterfind(f"{space}Contents"):
        name = each.findtext(key) or ""
        entries.append(
            (
                unquote_plus(name) if encoded else name,
                int(each.findtext(size) or 0),
                (each.findtext(etag) or "").strip('"'),
                each.findtext(changed) or "",
            )
        )
    return entries + folders, following


def _around(root: ElementTree.Element) -> tuple[list[Listed], str | None, bool]:
    """What a page tells beside objects: folders, the continuation token, are keys encoded?"""
    space = _space(root)
    encoded = root.findtext(f"{space}EncodingType") == "url"
    found = [
        each.findtext(f"{space}Prefix") or "" for each in root.iterfind(f"{space}CommonPrefixes")
    ]
    folders = [(unquote_plus(each) if encoded else each, 0, "", "") for each in found]
    return folders, root.findtext(f"{space}NextContinuationToken"), encoded


def _space(root: ElementTree.Element) -> str:
    return root.tag[: root.tag.find("}") + 1]


def _unquoted(keys: list[str]) -> list[str]:
    """Keys of a page as they are; in one go, for a call of each would take a while."""
    text = "\n".join(keys)
    if "%" not in text and "+" not in text:  # which Amazon writes for a space
        return keys
    if "%0A" in text.upper():
        return list(map(unquote_plus, keys))
    return unquote_plus(text).split("\n")
