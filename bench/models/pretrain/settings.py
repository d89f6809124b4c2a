"""Size of the built-in encoders and of a batch, for both modalities."""

WIDTH, DEPTH, HEADS, INNER = 64, 12, 4, 256
BATCH = 128
