"""Imports between folders: a table of who may import whom, held against every import statement of the product."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("bench", "methods", "reports")
