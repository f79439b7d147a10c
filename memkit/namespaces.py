"""Where memories are kept: templates of namespaces, and labels for any name. Pure."""

import re
from collections.abc import Sequence

from memkit.errors import ConfigError

FACTS_NAMESPACE = ("users", "{user_id}", "facts")
TURNS_NAMESPACE = ("users", "{user_id}", "turns")
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def escape_label(value: str) -> str:
    """Return a namespace label for any text: LangGraph refuses dots and NUL in labels.

    They are percent-encoded, and so are braces, which stand for what is to be filled in, and the
    percent sign, so that two users never share a label.
    """
    return re.sub(r"[%.{}\0]", lambda match: f"%{ord(match[0]):02X}", value)


def check_namespace(template: Sequence[str]) -> tuple[str, ...]:
    """Return a namespace template as a tuple.

    Raises:
        ConfigError: It is empty, a plain string, or a label is empty or holds a dot.
    """
    if not isinstance(template, list | tuple) or not template:
        raise ConfigError(
            f'a namespace is a tuple of labels like ("users", "{{user_id}}"), got {template!r}'
        )
    for label in template:
        if not isinstance(label, str) or not label or "." in label:
            raise ConfigError(f"a namespace label is a text without dots, got {label!r}")
        if set("{}") & set(PLACEHOLDER.sub("", label)):
            raise ConfigError(f'a name to fill in is written like "{{user_id}}", got {label!r}')
    if template[0] == "langgraph":
        raise ConfigError('LangGraph keeps namespaces that begin with "langgraph" to itself')
    return tuple(template)
