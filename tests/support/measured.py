"""Runs a server's daemon as `descartesd` does, and writes its metrics to a file at each SIGUSR1."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import msgspec

from descartesd.config.load import load_config
from descartesd.daemon import Daemon
from descartesd.plugins import contributions


async def serve(config_file: str, target: str) -> None:
    config = load_config(config_file, environ=os.environ)
    daemon = Daemon(config, contributions(config, config_file))

    def write() -> None:
        with open(f"{target}.new", "wb") as file:
            file.write(msgspec.json.encode(daemon.readings.collect()))
        os.rename(f"{target}.new", target)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, write)
    await daemon.run()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
