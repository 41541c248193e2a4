"""goldiprox: train on the points that are learnable, worth learning and not yet learnt."""
