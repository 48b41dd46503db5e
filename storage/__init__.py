"""Where results live and how they come back: sources, columns, ledger, packs, checkpoints."""
