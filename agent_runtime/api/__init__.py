"""The daemon's HTTP face: operations, streams and their server. See docs/http.md."""
