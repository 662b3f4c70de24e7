"""Distillation strategies as validated records: who teaches, what target, which loss."""
