"""docs/reference/metrics.md, from the table of metrics."""  # noqa: INP001  # a directory of scripts

from __future__ import annotations

from methods_page import page, table

from descartesd.observe.declared import DECLARED, Declared

_INTRO = """
What a server counts and measures of itself.
Nothing is computed until somebody asks: the numbers are read when an
[exporter](../how-to/export-metrics.md) wants them.
Names, units and types are those of Prometheus: a counter only grows, sizes are bytes,
times are seconds.

No metric has a label with the name of an agent or of a caller, so there are never more than a
few hundred values.
What single agents use is told by [`agent.list`](methods.md#agentlist).
Plugins may add metrics of their own, which their documentation describes.
"""


def metrics_page() -> str:
    """The page."""
    return page(
        "Metrics",
        "descartesd/observe/declared.py",
        _INTRO,
        *(
            f"## {title}\n\n{table(('metric', 'type', 'labels', 'meaning'), map(_row, group))}"
            for title, group in DECLARED.items()
        ),
    )


def _row(metric: Declared) -> tuple[str, str, str, str]:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"`{metric.name}`", metric.kind, labels, metric.help
