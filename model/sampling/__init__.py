"""Images from a trained prior."""
