"""Results as self-contained HTML."""
