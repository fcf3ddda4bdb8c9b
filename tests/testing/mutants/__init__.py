"""Tiny plugins that pass the kit, and mutants of them, each with one fault."""
