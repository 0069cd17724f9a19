"""Texts of the Debian package that are made from ours: changelog, copyright, who maintains it."""  # noqa: INP001  # a directory of scripts

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator
from email.utils import format_datetime
from importlib import metadata
from pathlib import Path

from deb_environment import HOME, bundled
from source_date import source_date

ROOT = Path(__file__).parents[1]
_APACHE = re.compile(r" *Apache License\n *Version 2.0, January 2004.*", re.DOTALL)
_RELEASE = re.compile(
    r"^## \[(?P<version>[^\]]+)\].*?\n(?P<text>.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE
)
_COMMON = """On Debian systems the text of the Apache License, version 2.0, is in
/usr/share/common-licenses/Apache-2.0.
"""
_COPYRIGHT = f"""descartesd

Copyright: the contributors to descartesd
License: Apache-2.0

{_COMMON}
The package has libraries in /{HOME}, as their authors publish them.
What they say of their licenses follows.
"""


def maintainer() -> str:
    """Whoever builds it is named as in other packages; .invalid is an address nobody can have."""
    name = os.environ.get("DEBFULLNAME") or "descartesd maintainers"
    return f"{name} <{os.environ.get('DEBEMAIL') or 'maintainers@descartesd.invalid'}>"


def changelog(version: str) -> str:
    """Our changelog as Debian writes one; the newest release has this version of the package."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = list(_RELEASE.finditer(text))
    revision = version.partition("-")[2]
    return "\n".join(_release(f"{each['version']}-{revision}", each["text"]) for each in releases)


def _release(version: str, text: str) -> str:
    items = (" ".join(each.split()) for each in re.split(r"^- ", text, flags=re.MULTILINE)[1:])
    lines = [
        textwrap.fill(each, 78, initial_indent="  * ", subsequent_indent="    ") for each in items
    ]
    head = f"descartesd ({version}) unstable; urgency=medium"
    tail = f" -- {maintainer()}  {format_datetime(source_date())}"
    return "\n".join([head, "", *lines, "", tail, ""])


def copyright_notices() -> str:
    """Ours, and the licenses of every library that is in the package."""
    return "\n".join([_COPYRIGHT, *map(_library, bundled())])


def _library(name: str) -> str:
    told = metadata.distribution(name)
    head = f"{told.name} {told.version}"
    return "\n".join([head, "-" * len(head), "", *_licenses(told)])


def _licenses(told: metadata.Distribution) -> Iterator[str]:
    for file in told.files or ():
        is_license = re.search(r"licen[cs]e|copying|authors", file.name, re.IGNORECASE)
        if is_license and ".dist-info" in str(file) and file.suffix != ".sh":
            text = Path(str(file.locate())).read_text(encoding="utf-8")
            yield f"{file.name}:\n\n{_APACHE.sub(lambda _: _COMMON, text).strip()}\n"
