"""The bench's own arithmetic, and what its crash matrix promises for the runtime."""
