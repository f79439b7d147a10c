"""The demo: conversations replayed through a graph that remembers, then questions about them."""
