"""Keys by which an external service knows that a call is made again."""

from typing import Any

from langgraph.runtime import Runtime, get_runtime

from memkit.effects import stable_key
from memkit.errors import ConfigError


def idempotency_key(*parts: object, runtime: Runtime[Any] | None = None) -> str:
    """Return a key that is the same whenever LangGraph runs the same task again.

    A node whose process dies after it has called a payment service, and before its checkpoint is
    written, is run again on resume, and would pay twice. Services that take an idempotency key
    answer a second call with the result of the first.

    The key is derived from the thread, the checkpoint that the task runs from, and the task: a
    retry and a resume (`graph.invoke(None, config)`, from any process) have the same one, the next
    turn and another of several parallel tasks have others. It holds as far as the checkpoint before
    the task was written: compile and invoke with `durability="sync"` for calls that must not be
    made twice.

    Args:
        parts: What tells several calls of one task from each other; texts and numbers.
        runtime: The runtime of the node; None finds it in the context.

    Returns:
        40 hexadecimal digits.

    Raises:
        ConfigError: It is not called in a task of a graph with a checkpointer.

    Example:
        def pay(state):
            key = idempotency_key("invoice", state["invoice_id"])
            stripe.PaymentIntent.create(amount=state["amount"], idempotency_key=key)
    """
    try:
        info = (runtime or get_runtime()).execution_info
    except (RuntimeError, KeyError, AttributeError):
        info = None
    if info is None or info.thread_id is None:
        msg = (
            "an idempotency key belongs to a task of a thread: call idempotency_key in a node of "
            "a graph that is compiled with a checkpointer and invoked with a thread_id"
        )
        raise ConfigError(msg)
    return stable_key(info.thread_id, info.checkpoint_ns, info.checkpoint_id, info.task_id, *parts)
