"""How networks move while they learn."""
