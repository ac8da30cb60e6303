"""Keeps every copy of your PostgreSQL data in step, and proves that they are."""

__version__ = "0.1.0"
