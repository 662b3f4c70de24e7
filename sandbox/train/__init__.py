"""Training: the run record, two engines with one meaning, and the host loop."""
