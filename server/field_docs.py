"""Descriptions of struct fields, read from the docstrings below them."""

import ast
import inspect
from itertools import pairwise
from textwrap import dedent

import msgspec


def field_docs(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Field name to the docstring below it, on one line."""
    (definition,) = ast.parse(dedent(inspect.getsource(struct))).body
    assert isinstance(definition, ast.ClassDef), "a struct is a class"
    docs = {}
    for field, below in pairwise(definition.body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                docs[name] = " ".join(text.split())
    return docs
