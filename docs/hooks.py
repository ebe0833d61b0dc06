"""Tables of parameters in the documentation, drawn from the parameter classes when the site is built.

A line `<!-- parameters: module.Class -->` in a page becomes the fields of that class: name, type, default, bounds and
description are those that the Prefect form, campaign files and Python calls are checked against.
"""

import re
from importlib import import_module
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

MARK = re.compile(r"^<!-- parameters: (?P<module>[\w.]+)\.(?P<name>\w+) -->$", re.MULTILINE)
HEAD = "| Field | Type | Default | What it is |\n|---|---|---|---|"


def on_page_markdown(markdown: str, **_context: object) -> str:
    """Put tables in the place of marks; called by mkdocs for each page."""
    return MARK.sub(lambda mark: table_of(getattr(import_module(mark["module"]), mark["name"])), markdown)


def table_of(parameters: type[BaseModel]) -> str:
    """Return the fields of a parameter class as a Markdown table."""
    if not parameters.model_fields:
        return "It has no fields: write `{}`."
    properties = parameters.model_json_schema()["properties"]
    rows = [_row(name, field, properties[name]) for name, field in parameters.model_fields.items()]
    return "\n".join(['<div class="parameters" markdown>\n', HEAD, *rows, "\n</div>"])


def _row(name: str, field: FieldInfo, schema: dict[str, Any]) -> str:
    text = f"**{field.title}.** {field.description}"
    return f"| `{name}` | {_type(schema)} | {_default(field)} | {text.replace('|', chr(92) + '|')} |"


def _type(schema: dict[str, Any]) -> str:
    variants = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    return " or ".join(_plain_type(each) for each in variants)


def _plain_type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_plain_type(schema['items'])}"
    if schema.get("format") == "path":
        return "path"
    names = {"object": "mapping", "string": "text", "boolean": "true or false"}
    kind = names.get(schema.get("type", ""), schema.get("type", "any"))
    return ", ".join([kind, *_bounds(schema)])


def _bounds(schema: dict[str, Any]) -> list[str]:
    names = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return [f"{sign} {schema[name]:g}" for name, sign in names.items() if name in schema]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or isinstance(field.default, BaseModel):
        return "its defaults"
    if field.default is PydanticUndefined or field.default is None:
        return "none"
    value = field.default
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
