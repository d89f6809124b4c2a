"""The generated shop: a catalogue whose probabilities are known to the generator."""
