"""The goals of the console: `goals` judges what `relay` and `fleets` find, each a process."""
