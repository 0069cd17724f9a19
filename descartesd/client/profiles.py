"""Which server a client means: a profile, a file, a name, or nothing at all."""

from __future__ import annotations

import os

from descartesd.errors import NotFoundError, UnavailableError
from descartesd.keys.profile import LOCAL_SOCKET, SERVICE_CONFIG, Profile, load_profile

_VARIABLE = "DESCARTES_PROFILE"
_DIRECTORY = "~/.config/descartes"


def find_profile(wanted: Profile | str | os.PathLike[str] | None = None) -> Profile:
    """Resolve what a client was given.

    A text with a `/` or the ending `.toml` is a path, any other a name in ~/.config/descartes.
    None means DESCARTES_PROFILE, then ~/.config/descartes/default.toml, then the local socket;
    UnavailableError tells how to start a server when there is none of them. Otherwise raises as
    `load_profile`.
    """
    if isinstance(wanted, Profile):
        return wanted
    if (path := profile_path(wanted)) is not None:
        return _load(path)
    if os.path.exists(LOCAL_SOCKET):
        return Profile(endpoints=(f"ipc://{LOCAL_SOCKET}",))
    raise UnavailableError(
        f"no server is known here: there is neither a profile nor the socket '{LOCAL_SOCKET}'",
        hint="start the service: sudo systemctl start descartesd"
        if os.path.exists(SERVICE_CONFIG)
        else "start one with: descartesd init DIR && descartesd --config DIR/descartesd.toml; "
        "then name its profile: --profile DIR/profiles/local.toml",
    )


def profile_path(wanted: str | os.PathLike[str] | None = None) -> str | None:
    """The file `find_profile` reads, None where it would take the local socket."""
    named = os.environ.get(_VARIABLE) or None if wanted is None else os.fspath(wanted)
    if named is None:
        path = _named("default")
        return path if os.path.exists(path) else None
    if "/" in named or named.endswith(".toml"):
        return os.path.expanduser(named)
    return _named(named)


def _load(path: str) -> Profile:
    try:
        return load_profile(path)
    except NotFoundError as exc:
        name = os.path.basename(path).removesuffix(".toml")
        if path != _named(name):
            raise
        raise NotFoundError(
            f"there is no profile '{name}': expected '{path}'",
            hint="a file is named with a '/' or by its ending .toml",
        ) from exc


def _named(name: str) -> str:
    return os.path.join(os.path.expanduser(_DIRECTORY), f"{name}.toml")
