"""Chains of the suite's scripts, for Snakemake."""
