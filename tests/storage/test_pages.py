"""Pages of a listing are read as botocore reads them, whoever wrote them, only faster."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, quote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import botocore.session
import pytest
from botocore.handlers import decode_list_object_v2
from botocore.parsers import RestXMLParser
from hypothesis import example, given
from hypothesis import strategies as st

from wentu.storage import pages

KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
KEYS |= st.sampled_from(
    ["图 片+%.webp", "a&b<c>", '"', "%0A", "a//b ", "]]>", "😀.jpg", "\n", "\r"]
)
OBJECTS = st.lists(
    st.tuples(KEYS, st.integers(0, 2**42), st.sampled_from(["0" * 32, "ab" * 16 + "-12", ""])),
    max_size=5,
)
SERVERS = {
    "Amazon": "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;{etag}&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
    "<ChecksumType>FULL_OBJECT</ChecksumType><Size>{size}</Size>"
    "<StorageClass>STANDARD</StorageClass></Contents>",
    "MinIO": "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
    '<ETag>"{etag}"</ETag><Size>{size}</Size><Owner><ID>x</ID><DisplayName>小明</DisplayName>'
    "</Owner><StorageClass>STANDARD</StorageClass></Contents>",
    "indented": "\n  <Contents>\n    <Key>{key}</Key>\n    <LastModified>2026-01-01T00:00:00Z"
    "</LastModified>\n    <ETag>&#34;{etag}&#34;</ETag>\n    <Size>{size}</Size>\n    <Owner>\n"
    "      <ID>x</ID>\n    </Owner>\n  </Contents>\n",
    "another order": "<Contents><ETag>{etag}</ETag><Size>{size}</Size><Key>{key}</Key>"
    "<LastModified>2026-01-01T00:00:00+08:00</LastModified></Contents>",
    "attributes": "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00Z</LastModified>"
    '<ETag>{etag}</ETag><Size>{size}</Size><Owner type="a"><Key>no</Key></Owner></Contents>',
}


def page(
    objects: list[tuple[str, int, str]],
    folders: list[str],
    server: str = "Amazon",
    encoding: str = "url",
    following: str = "",
) -> bytes:
    """As that server writes it. encoding: url, with %20 or + for a space, or none."""
    encode: Any = {"url": quote, "+": quote_plus, "": lambda text: text}[encoding]

    def written(text: str) -> str:  # a bare \r would be read as a new line
        return escape(encode(text), {"\r": "&#13;"})

    text = "<IsTruncated>false</IsTruncated><Prefix></Prefix><MaxKeys>1000</MaxKeys>"
    text += "<EncodingType>url</EncodingType>" if encoding else ""
    text += f"<NextContinuationToken>{escape(following)}</NextContinuationToken>" * bool(following)
    for key, size, etag in objects:
        text += SERVERS[server].format(key=written(key), size=size, etag=etag)
    for folder in folders:
        text += f"<CommonPrefixes><Prefix>{written(folder)}</Prefix></CommonPrefixes>"
    space = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"' if server != "MinIO" else ""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult{space}>{text}'
        "</ListBucketResult>".encode()
    )


def of_botocore(body: bytes) -> pages.Page:
    """The same page, read by botocore's own parser and its handler of encoded keys."""
    model = botocore.session.get_session().get_service_model("s3").operation_model("ListObjectsV2")
    answer = {"status_code": 200, "headers": {}, "body": body}
    found = RestXMLParser().parse(answer, model.output_shape)
    decode_list_object_v2(found, {"encoding_type_auto_set": True})
    objects = [
        (each["Key"], each["Size"], each["ETag"].strip('"'), each["LastModified"])
        for each in found.get("Contents", [])
    ]
    folders = [(each["Prefix"], 0, "", None) for each in found.get("CommonPrefixes", [])]
    return objects + folders, found.get("NextContinuationToken")


def dated(found: pages.Page) -> Any:
    from wentu.storage.s3 import Entry

    rows, following = found
    return [(*row[:3], Entry(*row).changed) for row in rows], following


@given(
    OBJECTS,
    st.lists(KEYS, max_size=2),
    st.sampled_from(list(SERVERS)),
    st.sampled_from(["url", "+", ""]),
    st.sampled_from(["", "token/+="]),
)
@example([("a b+c", 1, "0" * 32), ("图\n片", 2, "")], ["d e/"], "Amazon", "+", "1&2")
def test_a_page_is_what_botocore_makes_of_it(
    objects: list[tuple[str, int, str]],
    folders: list[str],
    server: str,
    encoding: str,
    following: str,
) -> None:
    body = page(objects, folders, server, encoding, following)
    found = pages.parse(body)
    assert dated(found) == of_botocore(body)
    assert [(key, size, etag) for key, size, etag, _ in found[0][: len(objects)]] == objects


@pytest.mark.parametrize("server", ["Amazon", "indented"])
def test_usual_pages_are_not_parsed_as_xml(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = page([("图 片+%.webp", 12, "ab" * 16)] * 3, ["a/"], server)
    monkeypatch.setattr(pages, "_of_xml", None)
    assert dated(pages.parse(body)) == of_botocore(body)


def test_one_object_that_is_unlike_the_others_is_not_lost() -> None:
    body = page([("a", 1, "0" * 32), ("b", 2, "1" * 32)], [])
    for change in (b"<Key>a", b"<Key x='1'>a"), (b"<Size>1", b"<Size><!-- -->1"):
        assert dated(pages.parse(body.replace(*change))) == of_botocore(body)
    hidden = body.replace(b"<Contents><Key>b", b"<!-- <Contents>--><Contents><Key>b")
    assert dated(pages.parse(hidden)) == of_botocore(body)


def test_a_page_that_was_cut_off_is_left_to_botocore_which_asks_again() -> None:
    body, found = page([("a", 1, "")], [])[:-20], dict[str, Any]()
    with pytest.raises(ElementTree.ParseError):
        pages.parse(body)
    answer = {"status_code": 200, "body": body}
    pages.read(response_dict=answer, customized_response_dict=found)
    assert (answer["body"], found) == (body, {})


def test_it_reads_pages_before_anything_of_botocore_does() -> None:
    from wentu.storage.s3 import client

    s3, found = client.__wrapped__(), dict[str, Any]()  # one that no other test uses
    asked = s3.meta.events.emit(
        "before-parse.s3.ListObjectsV2",
        operation_model=s3.meta.service_model.operation_model("ListObjectsV2"),
        response_dict={"status_code": 200, "headers": {}, "body": page([("a", 1, "")], [])},
        customized_response_dict=found,
    )
    assert asked[0][0] is pages.read
    assert len(asked) > 1, "botocore has handlers of its own"
    assert found[pages.PAGE][0][0][0] == "a"
