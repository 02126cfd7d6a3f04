"""The server's two pages: links with an example to copy, and the documentation of the API. No script, no other host."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre, code { font: 14px/1.5 ui-monospace, monospace; }
h2 code { font-size: 18px; }
pre { background: #8882; padding: 1rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid #8884; }
:root { color-scheme: light dark; }
"""


def front_page(models: Sequence[str], url: str, *, has_key: bool) -> str:
    """What is served at `url`, which ends in a slash, how to ask for it, and where the rest is."""
    model = models[0]
    key = ' \\\n    -H "Authorization: Bearer $GROUNDUP_API_KEY"' if has_key else ""
    body = json.dumps({"model": model, "prompt": "Once upon a time", "max_tokens": 50})
    url = shlex.quote(f"{url}v1")
    curl = f"curl {url}/completions -H 'Content-Type: application/json'{key} \\\n    -d {shlex.quote(body)}"
    api_key = 'os.environ["GROUNDUP_API_KEY"]' if has_key else '"none"'
    python = (
        f"{'import os' + chr(10) if has_key else ''}from openai import OpenAI\n\n"
        f"client = OpenAI(base_url={url!r}, api_key={api_key})\n"
        f"stream = client.completions.create(model={model!r}, prompt='Once upon a time', max_tokens=50, stream=True)\n"
        "for chunk in stream:\n    print(chunk.choices[0].text, end='', flush=True)"
    )
    links = {
        "docs": "all routes and fields", "openapi.json": "the same as OpenAPI", "v1/models": "the served models",
        "health": "whether the server works", "metrics": "counters for Prometheus",
    }  # fmt: skip
    rows = "".join(f'<tr><td><a href="{path}">/{path}</a></td><td>{text}</td></tr>' for path, text in links.items())
    names = ", ".join(f"<code>{escape(name)}</code>" for name in models)
    return _page(
        "groundup",
        f"<p>Served here: {names}. These models continue a text.</p><pre>{escape(curl)}</pre>"
        f"<p>With OpenAI's client for Python:</p><pre>{escape(python)}</pre><table>{rows}</table>",
    )


def docs_page(schema: Mapping[str, Any]) -> str:
    """Routes and fields of an OpenAPI document."""
    parts = [f"<p>{escape(schema['info']['description'])}</p>"]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            description = _prose(operation.get("description", ""))
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{description}</p>")
            if "requestBody" in operation:
                parts.append(_fields(schema, operation["requestBody"]["content"]["application/json"]["schema"]))
    for name in ("StreamOptions", "Completion", "Choice", "Logprobs", "Usage", "Error", "ErrorDetail"):
        parts.append(f"<h2>{name}</h2>{_fields(schema, {'$ref': f'#/components/schemas/{name}'})}")
    return _page("groundup: API", "".join(parts))


def _fields(schema: Mapping[str, Any], reference: Mapping[str, str]) -> str:
    part = schema["components"]["schemas"][reference["$ref"].rpartition("/")[2]]
    rows = [f"<p>{_prose(part.get('description', ''))}</p><table>"]
    for name, field in part["properties"].items():
        default = f" [{escape(json.dumps(field['default']))}]" if field.get("default") is not None else ""
        description = _prose(field.get("description", ""))
        rows.append(
            f"<tr><td><code>{escape(name)}</code></td><td>{escape(_type(field))}{default}</td><td>{description}</td></tr>"
        )
    return "".join([*rows, "</table>"])


def _type(field: Mapping[str, Any]) -> str:
    """A type of JSON schema in words, such as `number from 0 to 1`."""
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"] if each.get("type") != "null")
    if "$ref" in field:
        return str(field["$ref"].rpartition("/")[2])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if "const" in field or "enum" in field:
        return " or ".join(json.dumps(value) for value in field.get("enum", [field.get("const")]))
    least, most = (field.get(name) for name in ("minimum", "maximum"))
    bounds = (f" from {least:g}" if least is not None else "") + (f" to {most:g}" if most is not None else "")
    return f"{field.get('type', 'any')}{bounds}"


def _prose(text: str) -> str:
    """A docstring as HTML; names in it stand between backticks."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _page(title: str, content: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>{content}</html>"
    )
