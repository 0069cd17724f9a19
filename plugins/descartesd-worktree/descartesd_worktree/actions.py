"""The actions of the plugin: worktrees made, listed, compared and removed by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta, Struct, to_builtins

from descartesd.api import Action, ActionContext, Empty, InvalidArgumentError, NotFoundError
from descartesd_worktree.book import Record
from descartesd_worktree.difference import difference
from descartesd_worktree.git import Until
from descartesd_worktree.worktrees import Wanted, Worktrees

# Beyond what git may take, for all that is not git.
_MARGIN_S = 10.0


class Create(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A repository by its path, or its path below a root; a new branch, and where it begins."""

    repo: Annotated[str, Meta(min_length=1, max_length=4095)]
    branch: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    base: Annotated[str, Meta(min_length=1, max_length=255)] | None = None


class Diff(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worktree by its name, unless an agent is named; `plain` answers nothing but the diff."""

    name: str | None = None
    max_bytes: Annotated[int, Meta(ge=1, le=4_194_304)] = 1_048_576
    plain: bool = False


class Remove(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worktree by its name, unless an agent is named; `force` loses what is not committed."""

    name: str | None = None
    force: bool = False


class Actions:
    """The functions, and what they are registered as."""

    def __init__(self, worktrees: Worktrees) -> None:
        self._worktrees = worktrees
        self._git_s = worktrees.config.git_s

    def all(self) -> Iterator[Action]:
        """Each of them."""
        timeout_s = self._git_s + _MARGIN_S
        yield Action(
            name="worktree.create",
            summary="Make a git worktree with a branch of its own.",
            run=self.create,
            params=Create,
            timeout_s=timeout_s,
        )
        yield Action(
            name="worktree.diff",
            summary="Tell what was changed in a worktree since it was made.",
            run=self.diff,
            params=Diff,
            timeout_s=timeout_s,
        )
        yield Action(
            name="worktree.list",
            summary="List the worktrees there are.",
            run=self.list,
            params=Empty,
        )
        yield Action(
            name="worktree.remove",
            summary="Remove a worktree, unless work would be lost with it.",
            run=self.remove,
            params=Remove,
            timeout_s=timeout_s,
        )

    def create(self, context: ActionContext, params: Create) -> dict[str, Any]:
        wanted = Wanted(params.repo, context.caller, params.branch, params.base)
        record = self._worktrees.create(wanted, self._until(context))
        facts = {"worktree": record.name, "branch": record.branch, "caller": context.caller}
        context.log.info("worktree.made", extra=facts)
        return _told(record)

    def list(self, context: ActionContext, _params: Empty) -> list[dict[str, Any]]:
        return [_told(each) for each in self._worktrees.book.all() if _may_see(context, each)]

    def diff(self, context: ActionContext, params: Diff) -> dict[str, Any] | str:
        record = self._meant(context, params.name)
        git = self._worktrees.git(record, self._until(context))
        told = difference(git, record, params.max_bytes)
        return str(told["diff"]) if params.plain else told

    def remove(self, context: ActionContext, params: Remove) -> dict[str, Any]:
        record = self._meant(context, params.name)
        gone = self._worktrees.remove(record.name, self._until(context), force=params.force)
        facts = {"worktree": record.name, "force": params.force, "caller": context.caller}
        context.log.info("worktree.removed", extra=facts)
        return {"name": record.name, "branch": record.branch, "is_branch_kept": not gone}

    def _until(self, context: ActionContext) -> Until:
        return Until(time.monotonic() + self._git_s, context.cancelled)

    def _meant(self, context: ActionContext, name: str | None) -> Record:
        """The worktree that is named, or the one of the agent that is.

        Raises InvalidArgumentError; NotFoundError, also where it is another's.
        """
        if name is not None and context.agent is None:
            record = self._worktrees.find(name)
            if not _may_see(context, record):
                raise NotFoundError(f"there is no worktree '{name}'")
            return record
        if name is None and context.agent is not None:
            at = self._worktrees.at(context.agent.spec.cwd)
            if at is None:
                raise NotFoundError(f"agent '{context.agent.name}' does not run in a worktree")
            return at
        raise InvalidArgumentError(
            "name: expected the name of a worktree, or an agent, one of the two",
            hint="name=NAME as worktree.create and worktree.list tell it, or --agent ID",
        )


def _may_see(context: ActionContext, record: Record) -> bool:
    """Who is not an administrator sees what is his own."""
    return context.role == "admin" or record.owner == context.caller


def _told(record: Record) -> dict[str, Any]:
    told: dict[str, Any] = to_builtins(record)
    return {name: value for name, value in told.items() if name not in ("common", "is_let_go")}
