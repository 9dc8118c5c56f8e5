"""Fastlock behind the lock interfaces of others: a framework's component, a library's class.

Law: ``import fastlock`` never imports any of these, and each imports what it needs only when
it is imported itself; what an extra brings is named, with the command, when it is missing.
"""
