"""What a stage would take on this machine, measured on a few pairs; nothing is written in its output."""
