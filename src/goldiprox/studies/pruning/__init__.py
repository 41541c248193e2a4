"""Which examples can go, which are wrong, and what the scores agree on."""
