"""What the runtime costs, measured on this machine: `make bench`."""
