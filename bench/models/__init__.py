"""Models: backbones, their hidden states, the user encoder, and the recommender with its loss."""
