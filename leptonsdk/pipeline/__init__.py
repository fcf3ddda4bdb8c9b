"""Carrying a plan out: the run folder, the steps, the gate, and what is shown of them."""
