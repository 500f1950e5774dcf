"""Inflicts every fault, one after the other, and prints the table: python -m tests.faults [pytest's arguments]."""

import sys
from pathlib import Path

import pytest

sys.exit(pytest.main([str(Path(__file__).parent), "-m", "faults", "-q", *sys.argv[1:]]))
