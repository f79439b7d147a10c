"""A worker process: serves turns that come as JSON lines on standard input."""

import json
import sys

from langgraph.checkpoint.postgres import PostgresSaver

from memkit import SemanticStore
from tests.fakes import HashEmbeddings
from tests.graphs import config, memory_graph, said


def main(dsn: str) -> None:
    embed = HashEmbeddings()
    with (
        PostgresSaver.from_conn_string(dsn) as saver,
        SemanticStore.open(dsn, embed=embed, dims=embed.dims) as store,
    ):
        store.setup()
        graph = memory_graph().compile(checkpointer=saver, store=store)
        for line in sys.stdin:
            turn = json.loads(line)
            message = said(turn["text"], "05-01", id=turn["id"])
            values = graph.invoke({"messages": [message]}, config("shared"))
            sys.stdout.write(json.dumps({"messages": len(values["messages"])}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
