"""Walcast inside other people's frameworks; each file loads its own framework and no other."""
