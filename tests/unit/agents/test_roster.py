"""Finding agents by id, name and prefix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descartesd.agents.record import Agent
from descartesd.agents.roster import Roster
from descartesd.errors import InvalidArgumentError, NotFoundError
from descartesd.wire.agent import AgentSpec

IDS = ["06h0aaaa000000000001", "06h0aaaa000000000002", "06h0bbbb000000000001"]


def agent(agent_id: str, name: str | None = None) -> Agent:
    return Agent(
        id=agent_id,
        name=name or f"n{agent_id}",
        owner="uid:0",
        spec=AgentSpec(command=["true"]),
        created_at=0.0,
    )


@pytest.fixture
def roster() -> Roster:
    made = Roster()
    for agent_id, name in zip(IDS, ("one", "two", "three"), strict=True):
        made.add(agent(agent_id, name))
    return made


@pytest.mark.parametrize("reference", ["three", IDS[2], "06h0b", IDS[2][:-1]])
def test_agent_is_found_by_name_id_or_prefix(roster: Roster, reference: str) -> None:
    assert roster.resolve(reference).id == IDS[2]


def test_name_wins_over_a_prefix_and_over_an_id(roster: Roster) -> None:
    roster.add(agent("06h0cccc000000000001", "06h0b"))

    assert roster.resolve("06h0b").id == "06h0cccc000000000001"


def test_ambiguous_prefix_names_who_it_could_be(roster: Roster) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        roster.resolve("06h0")

    assert caught.value.message == "'06h0' is ambiguous: 3 agents have ids that begin with it"
    assert caught.value.hint == "give more characters, or a name: one, two, three"


@pytest.mark.parametrize("reference", ["four", "06h", "06h0d", IDS[0] + "0", "zzzz"])
def test_nobody_is_found_by_anything_else(roster: Roster, reference: str) -> None:
    with pytest.raises(NotFoundError, match=f"no agent '{reference}'"):
        roster.resolve(reference)


def test_dropped_agent_is_gone_and_its_name_free(roster: Roster) -> None:
    two = roster.resolve("two")

    assert roster.drop(two)
    assert not roster.drop(two)
    assert roster.get(two.id) is None
    assert "two" not in roster.names
    assert [each.name for each in roster] == ["one", "three"]
    assert roster.resolve("06h0a").name == "one"
    roster.add(agent("06h0dddd000000000001", "two"))
    assert len(roster) == 3


@given(
    added=st.lists(st.text("01ab", min_size=6, max_size=6), unique=True, max_size=20),
    data=st.data(),
)
def test_it_agrees_with_a_plain_list(added: list[str], data: st.DataObject) -> None:
    roster = Roster()
    for agent_id in added:
        roster.add(agent(agent_id))
    dropped = data.draw(st.sets(st.sampled_from(added)) if added else st.just(set()))
    for agent_id in dropped:
        found = roster.get(agent_id)
        assert found is not None
        roster.drop(found)
    left = sorted(set(added) - dropped)
    prefix = data.draw(st.text("01ab", min_size=4, max_size=6))
    matches = [agent_id for agent_id in left if agent_id.startswith(prefix)]

    assert [each.id for each in roster] == left
    if len(matches) == 1:
        assert roster.resolve(prefix).id == matches[0]
    else:
        with pytest.raises(InvalidArgumentError if matches else NotFoundError):
            roster.resolve(prefix)
