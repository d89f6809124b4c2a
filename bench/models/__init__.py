"""Backbones, hidden states, the user encoder, the recommender and its loss."""
