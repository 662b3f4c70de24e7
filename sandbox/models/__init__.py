"""Models: pure `init` / `apply` records; Flax modules stay inside their own file."""
