"""What the daemon's HTTP face costs, beside the same work done by others."""
