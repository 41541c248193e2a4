"""One guarded reader for each format: whatever is wrong with a file is one line that names it.

Nothing that a file holds is obeyed here: strings are marked as :class:`goldiprox.names.FromFile`,
sizes are checked against a stated limit before memory is taken.
"""
