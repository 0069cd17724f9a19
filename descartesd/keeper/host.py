"""What the host lets the keeper do for an agent: control groups, accounts, private directories."""

from __future__ import annotations

from typing import NamedTuple

from descartesd.keeper.cgroup import Groups
from descartesd.keeper.tmpdir import TmpDirs
from descartesd.keeper.users import Users


class Host(NamedTuple):
    """Found out once, when the keeper starts."""

    groups: Groups
    users: Users
    tmp: TmpDirs
