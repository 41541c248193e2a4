"""What the commands do, end to end: each composes the other rooms and writes an output folder."""
