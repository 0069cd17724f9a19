"""The revocation list: who is let in no more, whatever certificate he shows.

One line for each revocation, appended and never taken back:

    GENERATION TIME SERIAL FINGERPRINT NAME

`-` stands for what is not known. A line without its newline was cut short by a crash and does not
count: nobody had been told of it. What has been read or been told is never forgotten again, so an
older list put in the place of this one revokes no less.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from descartesd.errors import DescartesError, StartupRefusedError
from descartesd.keys.certificate import parse_utc, utc
from descartesd.keys.files import replace_secret, sync_directory, translated, write_whole

LIST_NAME = "revoked"
_UNKNOWN = "-"
_TITLE = (
    "# revoked certificates: generation, time, serial, fingerprint, name; only ever appended to\n"
)


class Revocation(NamedTuple):
    """One line; '' is what is not known. The time is in seconds since the epoch, UTC."""

    generation: int
    time: int
    serial: str
    fingerprint: str
    name: str

    def line(self) -> str:
        """As it stands in the list."""
        words = (self.serial or _UNKNOWN, self.fingerprint or _UNKNOWN, self.name or _UNKNOWN)
        return f"{self.generation} {utc(self.time)} {' '.join(words)}\n"


class RevocationList:
    """The list in the file `path`, and what is known beside it."""

    def __init__(self, path: str) -> None:
        # What is wrong with the file, for people; it stays until the next start.
        self.problem: str | None = None
        self._path = path
        self._all: list[Revocation] = []
        self._serials: dict[str, Revocation] = {}
        self._fingerprints: dict[str, Revocation] = {}

    @property
    def generation(self) -> int:
        """The number of the newest revocation; 0 where there is none."""
        return max((each.generation for each in self._all), default=0)

    def all(self) -> list[Revocation]:
        """Every revocation, oldest first."""
        return list(self._all)

    def text(self) -> str:
        """The whole list as its file has it."""
        return _TITLE + "".join(each.line() for each in self._all)

    def find(self, serial: str, fingerprint: str) -> Revocation | None:
        """The revocation of a certificate, or of its key."""
        return self._fingerprints.get(fingerprint) or self._serials.get(serial)

    def know(self, text: str) -> None:
        """Take in what was revoked as another place remembers it; lines that are none are left."""
        self._take(_read(text)[0])

    def load(self) -> None:
        """Read the file; one that knows less than is known already is mended and told of.

        Raises StartupRefusedError when it cannot be read.
        """
        text = self._contents()
        found, faults = _read(text)
        newest = max((each.generation for each in found), default=0)
        known = self.generation
        missing = {each[1:] for each in self._all} - {each[1:] for each in found}
        self._take(found)
        if faults:
            self.problem = (
                f"the revocation list '{self._path}': line {faults[0]} is not one of a revocation"
            )
        if missing:
            self.problem = (
                f"the revocation list '{self._path}' ends at generation {newest}, {known} is known:"
                " an older one was put in its place; all that was revoked stays revoked"
            )
        if missing or faults:
            self._mend()

    def append(self, time: float, serial: str, fingerprint: str, name: str) -> Revocation:
        """Revoke, on disk before this returns.

        Raises the error of the family that fits when the file cannot be written; then nothing is.
        """
        revocation = Revocation(self.generation + 1, int(time), serial, fingerprint, name)
        try:
            self._write(revocation.line())
        except OSError as exc:
            raise translated(exc, self._path) from exc
        self._take([revocation])
        return revocation

    def _take(self, revocations: Iterable[Revocation]) -> None:
        known = {each[1:] for each in self._all}
        for each in revocations:
            if each[1:] in known:
                continue
            self._all.append(each)
            if each.serial:
                self._serials[each.serial] = each
            if each.fingerprint:
                self._fingerprints[each.fingerprint] = each
        self._all.sort()

    def _contents(self) -> str:
        try:
            with open(self._path, encoding="ascii", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""
        except OSError as exc:
            raise StartupRefusedError(
                f"cannot read the revocation list '{self._path}': {exc.strerror}"
            ) from exc

    def _mend(self) -> None:
        try:
            replace_secret(self._path, self.text().encode())
        except DescartesError as exc:
            self.problem = f"{self.problem}; {exc.message}"

    def _write(self, line: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path, flags, 0o600)
        try:
            size = _whole_lines(fd)
            os.ftruncate(fd, size)
            data = (line if size else _TITLE + line).encode()
            try:
                write_whole(fd, data)
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)
        sync_directory(os.path.dirname(self._path) or ".")


def _whole_lines(fd: int) -> int:
    """The bytes up to the last newline: behind it is what a crash has cut short."""
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0).rfind(b"\n") + 1


def _read(text: str) -> tuple[list[Revocation], list[int]]:
    """The revocations of a text, and the numbers of the lines that are none."""
    found, faults = [], []
    # What stands behind the last newline was cut short.
    for number, line in enumerate(text.split("\n")[:-1], 1):
        if not line or line.startswith("#"):
            continue
        try:
            generation, time, *words = line.split(" ")
            serial, fingerprint, name = ("" if word == _UNKNOWN else word for word in words)
            found.append(Revocation(int(generation), parse_utc(time), serial, fingerprint, name))
        except ValueError:
            faults.append(number)
    return found, faults
