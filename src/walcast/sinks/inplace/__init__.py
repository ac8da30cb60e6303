"""What stores with transactions share that make a collection anew in its place: LadybugDB, Neo4j, ArangoDB. No sink of its own."""
