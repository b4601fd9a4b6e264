"""The registry of models: versions and promotion, vocabulary, weights, intent ids."""
