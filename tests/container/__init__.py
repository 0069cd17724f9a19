"""Tests in a booted container: a pure version 2 tree of control groups on any host's kernel."""
