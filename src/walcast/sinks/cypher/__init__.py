"""What graph stores that speak Cypher have in common; no target of its own."""
