"""Content-addressed run folders, trajectories, and configs as data."""
