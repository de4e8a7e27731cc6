"""Score what other programs made: embeddings or a score matrix in a file, or a TREC run."""
