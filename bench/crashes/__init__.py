"""One kill -9 around an effect, on each engine's own durable store: `make crashes`."""
