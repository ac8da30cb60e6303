"""Compares a copy with its source at one logical position, while both are in use, and repairs what differs."""
