"""Components for frameworks. Law: ``import fastlock`` never imports any of them, and each
needs an extra of its own, which it names when that is missing.
"""
