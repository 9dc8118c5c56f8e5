"""The version. Law: one literal and nothing else; pyproject.toml reads it from here."""

__version__ = "1.0.0rc1"
