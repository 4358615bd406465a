"""The bench's own arithmetic, what its crash matrix promises for the runtime, and the evals."""
