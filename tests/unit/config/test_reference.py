"""The reference page is made from the schema."""

from __future__ import annotations

from descartesd.config.layers import ALIASES, CONFIG_FILE, FLAT_KEYS
from descartesd.config.leaves import leaves
from descartesd.config.reference import reference


def test_every_key_has_its_row_below_its_section() -> None:
    page = reference()

    entries = [leaf for leaf in leaves().values() if leaf.entry is not None]
    inner = [
        (f"{leaf.key}.NAME", each.key, each)
        for leaf in entries
        for each in leaves(leaf.entry).values()
    ]
    plain = [
        (*leaf.key.rpartition(".")[::2], leaf) for leaf in leaves().values() if leaf.entry is None
    ]

    assert [leaf.key for leaf in entries] == ["policy.roles", "backends"]
    for section, name, leaf in [*plain, *inner]:
        block = page.split(f"## [{section}]\n")[1].split("\n## ")[0]
        assert f"| `{name}` | " in block
        assert leaf.description in block


def test_every_variable_and_short_key_is_named() -> None:
    page = reference()

    for name in (*ALIASES, *FLAT_KEYS, CONFIG_FILE):
        assert f"`{name}`" in page


def test_bounds_choices_and_defaults_are_shown() -> None:
    page = reference()

    assert "| `max_agents` | integer, 1 to 1000000 | `100` | Agents that may run at once. |" in page
    assert '| `log_format` | `"json"`, `"pretty"` | `"json"` |' in page
