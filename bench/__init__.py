"""Measurements. Law: a figure comes from here, beside its rival and its limit, in one run."""
