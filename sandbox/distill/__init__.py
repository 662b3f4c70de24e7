"""Distillation strategies as validated records: who teaches, which target and loss."""
