"""Targets. One file each, or a folder; none imports another, and each loads its client only when it is used."""
