"""Compositions of everything else; only commands import them. See docs/architecture.md."""
