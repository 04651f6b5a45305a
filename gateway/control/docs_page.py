"""`/api/docs`: the API's description as a page that needs no script and fetches nothing from elsewhere."""

from __future__ import annotations

import html
import json
from typing import Any

from litestar.connection import Request
from litestar.openapi.plugins import OpenAPIRenderPlugin

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
html{color-scheme:light dark}
code,pre{font:13px/1.5 ui-monospace,monospace}pre{overflow:auto;padding:.75rem;border:1px solid #8886}
h2{margin-top:2.5rem;border-top:1px solid #8886;padding-top:1rem}summary{cursor:pointer}
"""


class PlainRenderPlugin(OpenAPIRenderPlugin):
    """Operations with their bodies, and every type by name."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        del request
        info = openapi_schema["info"]
        operations = [
            _operation(method, path, operation)
            for path, methods in openapi_schema.get("paths", {}).items()
            for method, operation in methods.items()
            if isinstance(operation, dict)
        ]
        schemas = openapi_schema.get("components", {}).get("schemas", {})
        types = [_type(name, schema) for name, schema in sorted(schemas.items())]
        page = (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(info['title'])}</title>"
            f"<style>{_STYLE}</style><h1>{_text(info['title'])} {_text(info['version'])}</h1>"
            f"<p>{_text(info.get('description', ''))} Machine-readable: "
            "<a href=/api/docs/openapi.json>openapi.json</a>.</p>"
            f"{''.join(operations)}<h2>Types</h2>{''.join(types)}</html>"
        )
        return page.encode()


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parameters = "".join(
        f"<li><code>{_text(parameter['name'])}</code> ({_text(parameter['in'])}"
        f"{', required' if parameter.get('required') else ''})</li>"
        for parameter in operation.get("parameters", [])
    )
    body = _reference(operation.get("requestBody", {}))
    answers = "".join(
        f"<li><code>{_text(status)}</code> {_text(answer.get('description', ''))} {_reference(answer)}</li>"
        for status, answer in operation.get("responses", {}).items()
    )
    return (
        f"<h2><code>{method.upper()} {_text(path)}</code></h2>"
        f"<p><b>{_text(operation.get('summary', ''))}.</b> {_text(operation.get('description', ''))}</p>"
        f"{f'<p>Parameters</p><ul>{parameters}</ul>' if parameters else ''}"
        f"{f'<p>Body: {body}</p>' if body else ''}<p>Answers</p><ul>{answers}</ul>"
    )


def _reference(part: dict[str, Any]) -> str:
    for media in part.get("content", {}).values():
        name = str(media.get("schema", {}).get("$ref", "")).rpartition("/")[2]
        if name:
            return f"<a href='#{_text(name)}'>{_text(name.rpartition('_')[2])}</a>"
    return ""


def _type(name: str, schema: dict[str, Any]) -> str:
    shown = _text(json.dumps(schema, indent=2))
    title = _text(name.rpartition("_")[2])
    return f"<details id='{_text(name)}' open><summary>{title}</summary><pre>{shown}</pre></details>"


def _text(value: object) -> str:
    return html.escape(str(value))
