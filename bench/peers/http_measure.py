"""`bench.http.measure` in the peers' venv."""

from bench.http.measure import main

if __name__ == "__main__":
    main()
