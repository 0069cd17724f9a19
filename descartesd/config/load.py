"""Loads the configuration: dynaconf reads and merges, the schema decides.

The only module that imports dynaconf, and only when a configuration is loaded. Later layers win:
defaults, file, [environments.NAME], environment variables, command line. Lists replace, tables
merge.
"""

from __future__ import annotations

import os
import re
import socket
import tomllib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import replace

from descartesd.config.endpoint import unix_path_fault
from descartesd.config.layers import (
    CONFIG_FILE,
    DEFAULT_ENVIRONMENT,
    ENVIRONMENT,
    Layer,
    environ_layers,
    file_layers,
    flag_layers,
)
from descartesd.config.plugin import Given, stray_faults
from descartesd.config.rolecheck import role_faults
from descartesd.config.schema import Config, Server
from descartesd.errors import StartupRefusedError

if TYPE_CHECKING:
    from dynaconf import Dynaconf

_NO_FLAGS: Mapping[str, str] = MappingProxyType({})


class Loaded(NamedTuple):
    """A configuration, the name of its file, and what it has for each plugin, layer by layer.

    `layers` are those the configuration was made of, the strongest last.
    """

    config: Config
    origin: str
    plugins: list[Given]
    layers: Sequence[Layer] = ()


def load_config(
    path: str | None = None, *, environ: Mapping[str, str], flags: Mapping[str, str] = _NO_FLAGS
) -> Config:
    """The configuration alone, as `load` loads it."""
    return load(path, environ=environ, flags=flags).config


def load(
    path: str | None = None, *, environ: Mapping[str, str], flags: Mapping[str, str] = _NO_FLAGS
) -> Loaded:
    """Load the file at `path`, or the one DESCARTES_CONFIG_FILE in `environ` names.

    `flags` are settings of the command line by dotted key. Raises StartupRefusedError when the
    file cannot be read, or with every fault of every layer, one a line (and in `details`).
    """
    path = path or environ.get(CONFIG_FILE)
    if not path:
        raise StartupRefusedError(
            f"no configuration file is named, neither by --config nor by {CONFIG_FILE}",
            hint="make a server directory with: descartesd init DIR",
        )
    settings = _dynaconf()
    table = _read(settings, path)
    origin, directory = os.path.basename(path), os.path.dirname(os.path.abspath(path))
    layers = [
        *file_layers(table, origin, environ.get(ENVIRONMENT) or DEFAULT_ENVIRONMENT),
        *environ_layers(environ),
        *flag_layers(flags),
    ]
    faults = [fault for layer in layers for fault in layer.faults]
    faults += _socket_faults(layers, directory)
    faults += role_faults(layers)
    if faults:
        raise StartupRefusedError("\n".join(faults), details={"faults": faults})
    config = resolved(_merged(settings, layers), directory)
    plugins = [given for layer in layers for given in layer.plugins]
    if strays := stray_faults(plugins, config.plugins.enabled):
        raise StartupRefusedError("\n".join(strays), details={"faults": strays})
    return Loaded(config, origin, plugins, layers)


def resolved(config: Config, directory: str) -> Config:
    """The configuration with paths made absolute from `directory`, and a name for the server."""
    server, runner = config.server, config.server.runner
    return replace(
        config,
        server=replace(
            server,
            server_id=server.server_id or _id_of_host(),
            local_socket=_absolute(server.local_socket, directory),
            state_dir=_absolute(server.state_dir, directory),
            keys_dir=_absolute(server.keys_dir, directory),
            run_dir=_absolute(server.run_dir, directory),
            keeper_socket=server.keeper_socket and _absolute(server.keeper_socket, directory),
            output_dir=_absolute(
                server.output_dir or os.path.join(server.state_dir, "output"), directory
            ),
            runner=replace(
                runner,
                working_dir=runner.working_dir and _absolute(runner.working_dir, directory),
            ),
        ),
    )


def _dynaconf() -> Dynaconf:
    from dynaconf import Dynaconf  # noqa: PLC0415  # costs 100 ms, ten times a bare interpreter

    # Its own loaders would also take in .env, *.local.toml, includes and DYNACONF_ variables.
    return Dynaconf(dynaconf_skip_loaders=True, dynaconf_skip_validators=True, load_dotenv=False)


def _read(settings: Dynaconf, path: str) -> dict[str, Any]:
    from dynaconf.loaders.base import BaseLoader  # noqa: PLC0415  # comes with dynaconf

    loader = BaseLoader(
        obj=settings,
        env="_envless",
        identifier="toml",
        extensions=("",),  # any file name
        file_reader=tomllib.load,
        string_reader=tomllib.loads,
        opener_params={"mode": "rb"},
    )
    try:
        # A file that cannot be opened is only a warning to dynaconf.
        with warnings.catch_warnings(action="error", category=UserWarning):
            table: dict[str, Any] = loader.get_source_data([path]).get(path, {})
    except UserWarning as exc:
        cause = exc.__context__
        reason = cause.strerror if isinstance(cause, OSError) else exc
        raise StartupRefusedError(f"cannot read the configuration '{path}': {reason}") from exc
    except UnicodeDecodeError as exc:
        raise StartupRefusedError(f"'{path}' is not valid UTF-8") from exc
    except tomllib.TOMLDecodeError as exc:
        raise StartupRefusedError(f"'{path}' is not valid TOML: {exc}") from exc
    return table


def _socket_faults(layers: list[Layer], directory: str) -> list[str]:
    # The last one decides; only where it stands does the length of its path show.
    key = "server.local_socket"
    path, origin = Server().local_socket, layers[0].origin
    for layer in layers:
        if key in layer.values:
            path, origin = layer.values[key], layer.origin
    fault = unix_path_fault(_absolute(path, directory))
    return [f"{origin}: {key}: {fault}"] if fault else []


def _merged(settings: Dynaconf, layers: Iterable[Layer]) -> Config:
    tables: dict[str, dict[str, Any]] = {}
    entries: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for key, value in layer.values.items():
            taken = value
            if isinstance(value, dict):
                # Names of users and groups are case-sensitive, dynaconf's merge is not.
                taken = tables[key] = _overlaid(tables.get(key, {}), value)
            if layer.known[key].entry is None:
                settings.set(key, taken, dotted_lookup=True, loader_identifier=layer.origin)
            else:
                entries[key] = taken
    merged = settings.as_dict()
    sections = {name: merged.get(name.upper(), {}) for name in Config.__struct_fields__}
    for key, table in entries.items():
        section, _, name = key.partition(".")
        sections[section] = {**sections[section], name: table} if name else table
    return msgspec.convert(sections, Config)


def _overlaid(table: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = table | above
    for name, value in above.items():
        if isinstance(value, dict) and name in table:
            merged[name] = _overlaid(table[name], value)
    return merged


def _absolute(path: str, directory: str) -> str:
    return os.path.normpath(os.path.join(directory, path))


def _id_of_host() -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname()).strip("_.-")[:63] or "localhost"
