"""What may go wrong through nobody's mistake in the code."""


def expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors that are the world's fault, and told in one line."""
    import sqlite3

    import openai
    import psycopg
    import psycopg_pool

    from memkit.errors import MemkitError

    return (
        MemkitError,
        OSError,
        psycopg.Error,
        sqlite3.Error,
        psycopg_pool.PoolTimeout,
        openai.OpenAIError,
    )
