"""The settings of the plugin: the table `[plugins.worktree]`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

_Directory = Annotated[
    str, Meta(pattern=r"^/[^\x00-\x1f]*$(?!\n)", title="an absolute path", max_length=1024)
]


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Raises ValueError when the settings do not go together."""

    roots: Annotated[
        list[_Directory],
        Meta(
            description="Directories the repositories are in; none outside of them is touched.",
            min_length=1,
        ),
    ]
    directory: Annotated[
        _Directory, Meta(description="Where the worktrees are made; made itself if it is missing.")
    ]
    label: Annotated[
        str,
        Meta(
            description="The label of an agent that names the repository of its worktree; "
            "LABEL.branch and LABEL.base name the branch and where it begins.",
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,55}$(?!\n)",
            title="up to 56 letters, digits and any of . _ / -",
        ),
    ] = "worktree"
    when_removed: Annotated[
        Literal["remove", "keep"],
        Meta(
            description="What becomes of its worktree when an agent is removed; one whose removal "
            "would lose work is kept in any case."
        ),
    ] = "remove"
    group: Annotated[
        str,
        Meta(
            description="Group whose members may write in worktrees: of the server's user and of "
            "the users agents run as, where those are others; empty: the server's user alone.",
            max_length=64,
        ),
    ] = ""
    other_owners: Annotated[
        bool,
        Meta(
            description="Whether repositories are used that belong neither to the server's user "
            "nor to root."
        ),
    ] = False
    spawn_s: Annotated[
        float,
        Meta(
            description="Seconds making a worktree may hold up the start of its agent, which is "
            "refused then; less than plugins.hook_timeout_s.",
            gt=0,
            le=60,
        ),
    ] = 1.5
    git_s: Annotated[
        float, Meta(description="Seconds the git of an action may take.", gt=0, le=3600)
    ] = 60.0

    def __post_init__(self) -> None:
        for root in self.roots:
            if f"{root.rstrip('/')}/".startswith(f"{self.directory.rstrip('/')}/"):
                raise ValueError(f"roots: '{root}' is in directory, expected it elsewhere")
