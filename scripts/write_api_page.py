#!/usr/bin/env python3
"""Writes docs/api.md anew from the docstrings (gdext/instruments/api_page.py)."""

from pathlib import Path

from gdext.instruments.api_page import page

if __name__ == "__main__":
    file = Path(__file__).resolve().parent.parent / "docs" / "api.md"
    file.write_text(page())
    print(file)
