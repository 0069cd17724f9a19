"""Measures the server against the limits of the machine: every ratio within one run."""
