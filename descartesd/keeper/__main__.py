"""`python -m descartesd.keeper`."""

from __future__ import annotations

from descartesd.keeper.main import main

if __name__ == "__main__":
    main()
