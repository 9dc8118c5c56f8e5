"""Adapters to other libraries' lock interfaces.

Law: the core package never imports these; each imports its library only when it is imported.
"""
