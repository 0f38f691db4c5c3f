"""A picture that comes with a request: as a form (multipart), or as the whole body.

Read into memory: nothing of what is uploaded is ever written to a disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from wentu.search.guard import Refusal

Value = TypeVar("Value")
MOST_VALUES, MOST_TEXT = 16, 4000
"""Values of a field, and characters of each."""

CHINESE = {
    "missing": "缺少此项",
    "extra_forbidden": "未知字段",
    "string_pattern_mismatch": "格式不对",
    "string_too_long": "不得超过 {max_length} 个字符",
    "too_long": "不得超过 {max_length} 项",
    "less_than_equal": "不得大于 {le}",
    "greater_than_equal": "不得小于 {ge}",
    "finite_number": "应为有限的数",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "应为整数"),
    **dict.fromkeys(("float_parsing", "float_type"), "应为数"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "应为 true 或 false"),
    "string_type": "应为文字",
    "list_type": "应为列表",
    **dict.fromkeys(("model_attributes_type", "model_type", "dict_type"), "应为对象"),
}
"""What pydantic finds wrong; its own words are English."""
FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["picture"],
                    "properties": {"picture": {"type": "string", "format": "binary"}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
"""For the OpenAPI document: every route that takes a picture."""


def form(**fields: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI of a form with a picture and these fields; a raw body has them in the query."""
    content = FORM["requestBody"]["content"]
    multipart = content["multipart/form-data"]["schema"]
    schema = multipart | {"properties": multipart["properties"] | fields}
    return {
        "requestBody": FORM["requestBody"]
        | {"content": content | {"multipart/form-data": {"schema": schema}}},
        "parameters": [
            {"in": "query", "name": name, "required": False, "schema": each}
            for name, each in fields.items()
        ],
    }


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A picture's bytes, and what else the form says."""

    picture: bytes
    fields: Mapping[str, list[str]]
    """Each field's values."""

    def field(self, name: str, kind: Any, default: Value) -> Value:
        """A field as that kind (a type of pydantic's); Refusal where it is none."""
        if name not in self.fields:
            return default
        try:
            value: Value = TypeAdapter(kind).validate_python(self.fields[name][-1])
        except ValidationError as error:
            raise invalid(name, *reason(error.errors()[0])) from None
        return value


def invalid(name: str, en: str, zh: str) -> Refusal:
    """A value that is none of those allowed."""
    return Refusal(422, f"{name}: {en}.", f"{name}：{zh}。")


def reason(error: Mapping[str, Any]) -> tuple[str, str]:
    """What pydantic found wrong, in English, its own words, and in Chinese."""
    zh = CHINESE.get(str(error["type"]), "值无效")
    return str(error["msg"]).rstrip("."), zh.format(**error.get("ctx", {}))


async def read_upload(request: Request, known: tuple[str, ...]) -> Upload:
    """The picture and the fields of a request; Refusal where there is none, or more than known."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        fields.setdefault(name, []).append(value)
    if kind == "multipart/form-data":
        picture = await _read_form(request, fields)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        picture = await request.body()
    else:
        raise Refusal(
            415,
            'send the picture as multipart/form-data in the field "picture", or as the body with '
            "Content-Type: image/jpeg or the like.",
            "请以 multipart/form-data 的 picture 字段上传图片，"
            "或以 Content-Type: image/jpeg 等直接作为请求内容。",
        )
    if not picture:
        raise Refusal(422, "there is no picture in the request.", "请求中没有图片。")
    for name, values in fields.items():
        if len(values) > MOST_VALUES or max(map(len, values)) > MOST_TEXT:
            raise invalid(
                name[:60],
                f"more than {MOST_VALUES} values or {MOST_TEXT} characters",
                f"超过 {MOST_VALUES} 个值或 {MOST_TEXT} 个字符",
            )
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise Refusal(
            422,
            f"unknown field {unknown[0][:40]!r}; known: {', '.join(('picture', *known))}.",
            f"未知字段 {unknown[0][:40]!r}；可用：{'、'.join(('picture', *known))}。",
        )
    return Upload(picture=picture, fields=fields)


async def _read_form(request: Request, fields: dict[str, list[str]]) -> bytes:
    """The picture in a form; the other fields are added to ``fields``."""
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=1, max_fields=48, max_part_size=100_000
    )
    parser.spool_max_size = 1 << 40  # in memory: its size is bounded already
    try:
        items = await parser.parse()
    except (MultiPartException, KeyError, ValueError, AttributeError) as error:
        raise Refusal(
            400, f"the form cannot be read: {error}.", f"无法解析表单：{error}。"
        ) from None
    picture = b""
    for name, value in items.multi_items():
        if isinstance(value, UploadFile):
            with value.file as file:
                if name == "picture":
                    picture = file.read()
        else:
            fields.setdefault(name, []).append(value)
    return picture
