"""Code as users write it; `make check` has mypy and pyright read it, both strictly."""
