"""Training jobs and the loop they share."""
