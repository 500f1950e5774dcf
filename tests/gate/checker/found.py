"""Programs that found a hole once. They are kept as they were shrunk: a seed would mean another program soon."""

from __future__ import annotations

from checker.program import Program, Step  # noqa: F401

FOUND: dict[str, Program] = {}
