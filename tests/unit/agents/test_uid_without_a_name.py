"""A server in a container runs under a uid its passwd file does not have."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest

NOBODY = 54_321


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_agents_start_under_a_uid_that_has_no_name() -> None:
    with pytest.raises(KeyError):
        pwd.getpwuid(NOBODY)
    script = (
        "import os\n"
        "from descartesd.agents.spec import Given, RunnerDefaults, launch_fields\n"
        "from descartesd.wire.agent import AgentSpec\n"
        f"os.setuid({NOBODY})\n"
        "wanted = AgentSpec(command=['true'])\n"
        "defaults = RunnerDefaults(None, ('~/bin', '/bin'), 1)\n"
        "fields = launch_fields(wanted, 'id', 'name', defaults, Given())\n"
        "print(fields['cwd'], fields['env']['USER'], fields['env']['PATH'])\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.stdout.split() == ["/", str(NOBODY), "/bin:/bin"], done.stderr
