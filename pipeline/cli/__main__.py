"""The command line as a module: ``python -m taskloom.pipeline.cli``, which is how torchrun starts it."""

from __future__ import annotations

from . import main

if __name__ == "__main__":
    main()
