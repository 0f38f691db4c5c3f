"""Files of captions in every layout, written by other code than reads them."""

from __future__ import annotations

import base64
import csv
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import openpyxl

Said = tuple[str, Sequence[str]]
"""A picture and its captions."""


def write_list(path: Path, said: Iterable[Said]) -> Path:
    rows = [{"image": image, "caption": list(texts)} for image, texts in said]
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, entries: Iterable[dict[str, Any]]) -> Path:
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
    path.write_text("".join(lines), encoding="utf-8", newline="")
    return path


def write_table(
    path: Path, rows: Iterable[Sequence[object]], *, encoding: str = "utf-8", delimiter: str = ","
) -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def write_sheet(path: Path, *sheets: Iterable[Sequence[object]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets, 1):
        sheet = book.create_sheet(f"表{number}")
        for at, row in enumerate(rows, 1):
            for column, value in enumerate(row, 1):
                cell = sheet.cell(at, column, value)
                if isinstance(value, str):
                    cell.data_type = "s"  # "=" is a text here, no formula
    book.save(path)
    return path


_TYPES = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
EXCEL = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package'
    '.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPES}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPES}.worksheet+xml"/>'
    f'<Override PartName="/xl/sharedStrings.xml" ContentType="{_TYPES}.sharedStrings+xml"/>'
    "</Types>",
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
    f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
    '<sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
    f'<Relationship Id="rId2" Type="{_OFFICE}/sharedStrings" Target="sharedStrings.xml"/>'
    "</Relationships>",
    "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{_MAIN}"><dimension ref="A1:C4"/><sheetData>'
    '<row r="1"><c r="A1" t="s"><v>0</v></c><c r="B1" t="s"><v>1</v></c></row>'
    '<row r="2"><c r="A2" t="s"><v>2</v></c><c r="B2" t="s"><v>3</v></c></row>'
    '<row r="4"><c r="A4" t="inlineStr"><is><t>b.png</t></is></c><c r="C4"><v>7</v></c>'
    '<c r="B4" t="str"><f>A4</f><v>猫</v></c></row></sheetData></worksheet>',
    "xl/sharedStrings.xml": f'<sst xmlns="{_MAIN}" count="4" uniqueCount="4"><si><t>图片</t></si>'
    '<si><t>描述</t></si><si><t>a.jpg</t></si><si><r><t xml:space="preserve">一只 </t></r>'
    "<r><t>狗</t></r></si></sst>",
}
"""The parts of a workbook as Excel writes it: shared strings, runs of text, a formula, a gap."""


def write_parts(path: Path, parts: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return path


def write_clip(
    folder: Path, split: str, pictures: dict[str, bytes], texts: Iterable[tuple[str, Sequence[Any]]]
) -> Path:
    """Chinese-CLIP's two files of a split; returns their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [b"%s\t%s\n" % (own.encode(), base64.b64encode(d)) for own, d in pictures.items()]
    (folder / f"{split}_imgs.tsv").write_bytes(b"".join(lines))
    write_lines(
        folder / f"{split}_texts.jsonl",
        (
            {"text_id": number, "text": text, "image_ids": list(ids)}
            for number, (text, ids) in enumerate(texts)
        ),
    )
    return folder
