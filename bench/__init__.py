"""The harness: configuration, cells, training, evaluation and measurement."""
