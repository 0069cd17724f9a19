"""Tells the parameters of an action from their JSON Schema."""

from __future__ import annotations

from typing import Any

_TYPES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "array": "list",
    "object": "table",
    "null": "null",
}


def parameters(schema: dict[str, Any]) -> list[str]:
    """Their names: those at the top of a schema, or of what it refers to."""
    return list(_top(schema).get("properties", ()))


def parameter_lines(schema: dict[str, Any]) -> list[str]:
    """A line for each: its name, what it may be, and its default where it has one."""
    top = _top(schema)
    found = top.get("properties", {})
    if not found:
        takes_any = top.get("type") == "object" and "additionalProperties" not in top
        return ["parameters: any" if takes_any else "parameters: none"]
    required = set(top.get("required", ()))
    lines = ["parameters:"]
    for name, each in found.items():
        resolved = _referred(each, schema)
        parts = [_kind(resolved, schema)]
        if name in required:
            parts.append("required")
        elif "default" in each:
            parts.append(f"default {_json(each['default'])}")
        if about := each.get("description") or each.get("title"):
            parts.append(str(about))
        sign = "=" if resolved.get("type") == "string" or "enum" in resolved else ":="
        lines.append(f"  {name}{sign}…  {', '.join(parts)}")
    return lines


def _top(schema: dict[str, Any]) -> dict[str, Any]:
    return _referred(schema, schema)


def _referred(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    _, _, name = part.get("$ref", "").rpartition("/")
    found: dict[str, Any] = schema.get("$defs", {}).get(name, part)
    return found


def _kind(part: dict[str, Any], schema: dict[str, Any]) -> str:
    if "enum" in part:
        return "one of " + ", ".join(map(_json, part["enum"]))
    if "anyOf" in part:
        return " or ".join(_kind(_referred(each, schema), schema) for each in part["anyOf"])
    kind = _TYPES.get(part.get("type", ""), "any")
    low, high = part.get("minimum"), part.get("maximum")
    if low is not None and high is not None:
        return f"{kind} from {low} to {high}"
    return kind


def _json(value: Any) -> str:
    import msgspec  # noqa: PLC0415  # start-up time

    return msgspec.json.encode(value).decode()
