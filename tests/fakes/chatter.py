#!/usr/bin/env python3
"""A small coding agent: tells how it was started, or with --chat answers line by line."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def say(**event: Any) -> None:
    print(json.dumps({**event, "session_id": "session-1"}), flush=True)


def result(text: str) -> None:
    say(type="result", is_error=False, subtype="success", result=text)


def once() -> None:
    task = sys.stdin.read()
    with open("/dev/stdin", encoding="utf-8") as again:
        reread = again.read()
    names = ("FROM_BACKEND", "AGENT_CONTEXT", "A_TOKEN", "FROM_FILE", "WHO")
    env = {name: os.environ[name] for name in names if name in os.environ}
    # The values themselves would be in the output, where secrets are looked for.
    lengths = {name: len(value) for name, value in env.items()}
    result(json.dumps({"argv": sys.argv[1:], "stdin": task, "same": task == reread, **lengths}))


def chat() -> None:
    asked = 0
    for line in sys.stdin:
        heard = json.loads(line)
        match heard["type"]:
            case "user" if heard["text"].startswith("ask "):
                # Not looked into: a program may print what no other can read.
                request = '{"subtype": "can_use_tool", "tool_name": "Bash", "input": %s}'
                event = '{"type": "control_request", "request_id": "q-%d", "request": %s}'
                given = heard["text"][4:].replace("LONG", "x" * 300_000)
                asked += 1
                print(event % (asked, request % given), flush=True)
            case "user":
                result(f"heard {heard['text']}")
            case "answer":
                result(f"told {heard}")
            case "interrupt":
                say(type="interrupted", id=heard["id"])


if __name__ == "__main__":
    say(type="system", subtype="init")
    if "--chat" in sys.argv:
        chat()
    else:
        once()
