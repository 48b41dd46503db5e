"""What is computed: the language, types, nodes, planner and passes. Imports the standard library only."""

from .draft import Draft
from .errors import TaskloomError
from .graph import Graph
from .instruction import Instruction, parse_instruction
from .node import Node, NodeId, Value
from .templates import parse_instructions

__all__ = [
    "Draft",
    "Graph",
    "Instruction",
    "Node",
    "NodeId",
    "TaskloomError",
    "Value",
    "parse_instruction",
    "parse_instructions",
]
