"""``python -m lstmbridge``: the command."""

from __future__ import annotations

from lstmbridge.cli import main

if __name__ == "__main__":
    main()
