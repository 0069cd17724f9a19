"""Certificates for TLS, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Certificates:
    """An authority, a server and a client, made by openssl."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._authority("ca")
        self._signed("server", "subjectAltName=IP:127.0.0.1")
        self._signed("client", "extendedKeyUsage=clientAuth")

    def _authority(self, name: str) -> None:
        self._openssl("req", "-x509", *self._new(name), "-days", "2", "-out", f"{name}.pem")

    def _signed(self, name: str, extension: str) -> None:
        (self.directory / f"{name}.ext").write_text(extension)
        self._openssl("req", *self._new(name), "-out", f"{name}.csr")
        authority = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        request = ("-in", f"{name}.csr", "-extfile", f"{name}.ext")
        self._openssl("x509", "-req", *request, *authority, "-days", "2", "-out", f"{name}.pem")

    def _new(self, name: str) -> tuple[str, ...]:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        return (*key, "-keyout", f"{name}.key", "-subj", f"/CN={name}")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, capture_output=True)

    def path(self, name: str) -> str:
        return str(self.directory / name)
