"""Tests of memkit. What LangGraph reads when it is imported is set here, before anything else."""

import os

# State in checkpoints must pass LangGraph's strict serializer.
os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
