"""What a brain sees of a hundred tools, and whether it finds the one that it needs."""
