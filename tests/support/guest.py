"""What a guest system needs beside our source and packages to run the tests."""

from __future__ import annotations

from typing import Final

# Where source/, packages/ and bin/ are in the guest.
HOME: Final = "/run/job"
_PROGRAM: Final = """#!{home}/bin/python3
from descartesd.{module} import main
main()
"""
PROGRAMS: Final = {
    name: _PROGRAM.format(home=HOME, module=module)
    for name, module in (("descartesd", "main"), ("descartesctl", "ctl.main"))
}
