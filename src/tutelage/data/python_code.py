"""Python files as text to learn from: docstrings as prose, functions as exercises. Parsed, never run."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
INSTRUCTION = "Write the body of this Python function."


@dataclass(frozen=True)
class Function:
    """A documented function: what it is called, what it promises, what it does. Indentation starts at zero."""

    name: str
    signature: str
    """From `def` to the colon."""
    docstring: str
    """As written, with its quotes."""
    body: str
    """Everything after the docstring."""

    @property
    def exercise(self) -> str:
        """What the user asks."""
        return f"{INSTRUCTION}\n\n{self.signature}\n{self.docstring}"

    def answer(self, body: str | None = None) -> str:
        """What the assistant says: the function without its docstring, or with another body."""
        return f"{self.signature}\n{self.body if body is None else body}"


def parse(text: str) -> ast.Module:
    """The syntax tree. Raises SyntaxError, ValueError or RecursionError for text that is no Python."""
    with warnings.catch_warnings():
        # Invalid escapes in other people's code are not ours to mend.
        warnings.simplefilter("ignore")
        return ast.parse(text)


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring without indentation) of the module, its classes and functions, in file order."""
    if text := ast.get_docstring(tree):
        yield "", text
    for name, node in _definitions(tree.body, ""):
        if text := ast.get_docstring(node):
            yield name, text


def functions(text: str, tree: ast.Module) -> Iterator[Function]:
    """Functions and methods that have a docstring and a body besides, in file order. Decorators are left out."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for name, node in _definitions(tree.body, ""):
        if isinstance(node, ast.ClassDef) or not ast.get_docstring(node) or not _does_something(node):
            continue
        first, second = node.body[0], node.body[1]
        assert first.end_lineno is not None and node.end_lineno is not None
        if node.lineno == first.lineno or first.end_lineno == second.lineno:
            continue
        signature = _outdented(lines[node.lineno - 1 : first.lineno - 1], node.col_offset)
        docstring = _outdented(lines[first.lineno - 1 : first.end_lineno], node.col_offset)
        body = _outdented(lines[first.end_lineno : node.end_lineno], node.col_offset)
        yield Function(name, signature, docstring, body.strip("\n"))


def _definitions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Definition]]:
    """Classes, functions and methods, also below `if` and `try`; functions inside functions are part of them."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", node
        elif isinstance(node, ast.ClassDef):
            yield f"{prefix}{node.name}", node
            yield from _definitions(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With):
            branches = [node.body, getattr(node, "orelse", []), getattr(node, "finalbody", [])]
            branches += [handler.body for handler in getattr(node, "handlers", [])]
            for branch in branches:
                yield from _definitions(branch, prefix)


def _does_something(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether there is more than the docstring and a place holder (pass, ..., raise NotImplementedError)."""
    rest = node.body[1:]
    if len(rest) != 1:
        return bool(rest)
    only = rest[0]
    if isinstance(only, ast.Raise):
        return "NotImplementedError" not in ast.dump(only)
    return not (isinstance(only, ast.Pass) or (isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant)))


def _outdented(lines: list[str], spaces: int) -> str:
    return "\n".join(line[spaces:] if line[:spaces].isspace() else line for line in lines)
