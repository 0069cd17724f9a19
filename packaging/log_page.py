"""docs/reference/log.md, from the table of kinds of lines."""  # noqa: INP001  # a directory of scripts

from __future__ import annotations

from methods_page import page, table

from descartesd.observe.events import EVENTS
from descartesd.observe.journald import message_id

_INTRO = """
What `descartesd` logs: to systemd's journal with each fact as a field, everywhere else as one
line of JSON on standard error (or for people, `monitoring.log_format = "pretty"`).

Every line has a kind.
In the journal it is the field `EVENT`, and `MESSAGE_ID` is 128 bits of its own, the same on every
host; in JSON it is `event`.
Both stay what they are from version to version.

Facts are fields under their names in capitals.
These are the ones to look for:

| journal | JSON | what it is |
| --- | --- | --- |
| `AGENT_ID` | `agent` | the id of the agent a line is about |
| `IDENTITY` | `identity` | who asked: `key:SHA256:…` or `uid:N` |
| `METHOD` | `method` | the method that was asked for |
| `TRACE_ID` | `trace` | what the client has sent as `trace` with its request |
| `OUTCOME` | `outcome` | what became of a request: `ok`, or the code of its error |
| `STATE`, `PREVIOUS` | `state`, `previous` | the state of an agent, and the one before |
| `REASON`, `EXIT_CODE`, `SIGNAL` | `reason`, `exit_code`, `signal` | how it ended |
| `CAUSE` | `cause` | why something does not work, in a sentence |

Lines from `debug` on are told with `monitoring.log_level = "debug"`.
Requests that only read are not logged; everything that changes something, or was refused, also
stands in the [audit log](../how-to/audit.md), which nobody can change unseen.
What is worth alerting on is told by [`server health`](../how-to/watch-a-service.md) and by
[metrics](metrics.md).
"""


def log_page() -> str:
    """The page."""
    headers = ("EVENT", "MESSAGE_ID", "meaning")
    return page(
        "Log",
        "descartesd/observe/events.py",
        _INTRO,
        *(
            f"## {title}\n\n{table(headers, map(_row, group.items()))}"
            for title, group in EVENTS.items()
        ),
    )


def _row(event: tuple[str, str]) -> tuple[str, str, str]:
    name, meaning = event
    return f"`{name}`", f"`{message_id(name)}`", meaning
