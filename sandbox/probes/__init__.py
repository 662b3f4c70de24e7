"""Probes: what a checkpoint's outputs and weights reveal, and when it happens.

A probe is a frozen record with a pure, jittable `measure(params, key) -> dict of
arrays`, run during training or offline on any trajectory. `transitions` works on the
recorded curves instead, on the host.
"""
