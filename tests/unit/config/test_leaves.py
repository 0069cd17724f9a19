"""The schema names every setting once, with all a reader needs."""

from __future__ import annotations

import pytest

from descartesd.config.leaves import leaves, shown, unknown


def test_every_setting_has_a_description_that_is_a_sentence() -> None:
    assert [leaf.key for leaf in leaves().values() if not leaf.description.endswith(".")] == []


def test_every_default_fits_its_own_setting() -> None:
    settings = leaves().values()

    faults = [leaf.fault(leaf.default) for leaf in settings if not leaf.is_table]

    assert [fault for fault in faults if fault] == []


def test_every_integer_has_both_bounds() -> None:
    for leaf in leaves().values():
        if leaf.base is int:
            low, high = next((m.ge, m.le) for m in leaf.metas if m.ge is not None)
            assert leaf.fault(low) is None
            assert leaf.fault(high) is None
            assert leaf.fault(low - 1) == f"expected an integer from {low} to {high}, got {low - 1}"
            assert leaf.fault(high + 1) is not None


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("server.max_agents", "lots", "expected an integer, got 'lots'"),
        ("server.max_agents", 5.0, "expected an integer, got 5.0"),
        ("server.max_agents", True, "expected an integer, got true"),
        ("server.max_agents", [1], "expected an integer, got [1]"),
        ("server.max_agents", {"a": 1}, "expected an integer, got a table"),
        ("server.endpoint", 5, "expected a text, got 5"),
        ("server.endpoint", "tcp://x", "expected tcp://HOST:PORT, got 'tcp://x'"),
        ("server.endpoint", "@jinja x", "expected a value that does not begin with '@'"),
        ("monitoring.log_format", "xml", "expected one of 'json', 'pretty', got 'xml'"),
        ("policy.local_uids", [], "expected a table, got []"),
    ],
)
def test_a_fault_says_what_is_expected_and_what_is(key: str, value: object, fault: str) -> None:
    assert leaves()[key].fault(value) == fault


@pytest.mark.parametrize("key", ["local_socket", "state_dir", "keys_dir", "run_dir"])
@pytest.mark.parametrize("path", ["", "~/x", "a\0b", 5])
def test_a_path_is_text_without_a_tilde(key: str, path: object) -> None:
    fault = leaves()[f"server.{key}"].fault(path)

    assert fault is not None
    assert fault.startswith("expected a path, absolute or relative to the configuration file")


@pytest.mark.parametrize("path", ["bin", ["bin"], ["/bin", 5], ["/a:/b"], ["~"], ["@x"]])
def test_the_search_path_is_a_list_of_directories(path: object) -> None:
    assert leaves()["server.runner.path"].fault(path) is not None


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("local_uids", "alice"),
        ("local_uids", "-1"),
        ("local_uids", "007"),
        ("local_uids", "1\n"),
        ("local_groups", ""),
        ("local_groups", "a b"),
        ("local_groups", "dynaconf_merge"),
    ],
)
def test_a_name_that_cannot_be_is_refused(key: str, name: str) -> None:
    fault = leaves()[f"policy.{key}"].entry_fault(name, "admin")

    assert fault is not None
    assert fault.startswith(("expected a uid, got", "expected a group, got"))


def test_a_long_value_is_shown_in_part() -> None:
    assert len(shown("x" * 5000)) < 100


def test_the_nearest_name_is_a_sibling_or_the_same_name_elsewhere() -> None:
    known = leaves()

    assert unknown("server.max_agnts", {"max_agents"}, known) == (
        "unknown key (did you mean 'max_agents'?)"
    )
    assert unknown("network.max_agents", {"send_hwm"}, known) == (
        "unknown key (did you mean 'server.max_agents'?)"
    )
    assert unknown("network.xyzzy", {"send_hwm"}, known) == "unknown key"
