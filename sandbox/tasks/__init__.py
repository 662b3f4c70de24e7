"""Tasks: one file each. A task samples labelled rows inside jit and scores logits."""
