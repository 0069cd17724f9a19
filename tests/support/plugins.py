"""Plugins as a package installs them: a module, and a dist-info with an entry point."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from descartesd.wire.plugin import PluginInfo
from tests.support.server import Server


def install(
    directory: Path,
    name: str,
    source: str,
    *,
    target: str = "",
    distribution: str | None = None,
    version: str = "1.2.3",
) -> None:
    """Put a plugin into a directory; `target` is what is in its module, nothing: the module."""
    package = distribution or f"descartesd-{name}"
    module = f"{package.replace('-', '_')}_module"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{module}.py").write_text(textwrap.dedent(source))
    info = directory / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    point = f"{module}:{target}" if target else module
    (info / "entry_points.txt").write_text(f"[descartesd]\n{name} = {point}\n")


class PluggedServer(Server):
    """A server with plugins: their sources by name, and its settings."""

    def __init__(
        self,
        sources: Mapping[str, str],
        *,
        settings: Mapping[str, object] | None = None,
        configuration: str = "",
        targets: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(settings)
        self.packages = self.root / "packages"
        self.packages.mkdir()
        for name, source in sources.items():
            install(self.packages, name, source, target=(targets or {}).get(name, ""))
        self.environ["PYTHONPATH"] = str(self.packages)
        names = ", ".join(f'"{name}"' for name in sources)
        with self.config.open("a") as file:
            file.write(f"\n[plugins]\nenabled = [{names}]\n{configuration}")

    def plugin(self, name: str) -> PluginInfo:
        """What the server tells of one of its plugins."""
        with self.client() as client:
            plugins = client.plugin.list().plugins
        return next(each for each in plugins if each.name == name)
