"""What a chat template may be made of, and how its parts come to pay for their work.

A template is parsed by Jinja. The rewriter refuses every kind of node that is not listed, and puts filters of
`sandbox.py` around those that can make, print, repeat or compare much. These filters have parentheses in
their names, so they are no filters that a template could have meant.
"""

from __future__ import annotations

from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

__all__ = ["Rewriter", "refuse", "size_of"]

NODES = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Macro, nodes.CallBlock,
    nodes.FilterBlock, nodes.With, nodes.Assign, nodes.AssignBlock, nodes.Break, nodes.Continue, nodes.Name,
    nodes.NSRef, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr,
    nodes.Filter, nodes.Test, nodes.Call, nodes.Getitem, nodes.Getattr, nodes.Slice, nodes.Concat,
    nodes.Compare, nodes.Operand, nodes.BinExpr, nodes.UnaryExpr,
)  # fmt: skip


class Rewriter(NodeTransformer):
    """Puts the paying filters into a parsed template, and refuses what it may not have."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if not isinstance(node, NODES):
            refuse(f"has {type(node).__name__.lower()}")
        if getattr(node, "dyn_args", None) or getattr(node, "dyn_kwargs", None):
            refuse("calls something with * or **")
        return super().generic_visit(node, *args, **kwargs)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            _filter("(print)", nodes.Const(part.data) if isinstance(part, nodes.TemplateData) else part)
            for part in node.nodes
        ]
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            refuse("has a recursive loop")
        size = size_of(node)
        self.generic_visit(node)
        node.iter = _filter("(loop)", node.iter, nodes.Const(size))
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filter("(compare)", node.expr)
        for operand in node.ops:
            operand.expr = _filter("(compare)", operand.expr)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter("(join)", *node.nodes)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _filter("(make)", self.generic_visit(node))

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter("(make)", node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter("(slice)", node) if isinstance(node.arg, nodes.Slice) else node


def _filter(name: str, value: nodes.Node, *args: nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)


def size_of(node: nodes.Node) -> int:
    """How many nodes there are from this one down."""
    return 1 + sum(1 for _ in node.find_all(nodes.Node))


def refuse(what: str) -> NoReturn:
    """Raise Jinja's `SecurityError`; `what` goes on after "it"."""
    raise SecurityError(f"it {what}, which is not allowed")
