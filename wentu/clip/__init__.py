"""Chinese-CLIP models: their text, weights, encoders and exported bundles."""
