"""The version. Law: one literal and nothing else; pyproject.toml reads it from here."""

__version__ = "0.1.0"
