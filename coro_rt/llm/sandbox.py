"""A Jinja environment for templates from untrusted files: no way out, and no way to use more than a budget.

Jinja's own sandbox keeps a template from Python's internals, but not from `'a' * 10**10`, from loops in
loops, or from lists that hold each other. Here, first, a template has only what chat templates need: listed
statements, filters, tests, methods and attributes. Second, whatever grows or repeats is paid for from one
budget: each turn of a loop and each call of a macro by the size of the part of the template that it runs;
each text, list or number that is made, printed or compared by its own size, and before it is made wherever it
may be much larger than what it is made of.

To this end the parsed template is rewritten (`rewriter.py`), so that what is printed, looped over, joined or
compared goes through a filter of ours.

A budget counts work, not seconds, so the same template and messages always end in the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn

import jinja2
from jinja2 import pass_context
from jinja2.ext import LoopControlExtension
from jinja2.filters import FILTERS
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace

from coro_rt.errors import TemplateError
from coro_rt.llm.rewriter import Rewriter, refuse, size_of

__all__ = ["Sandbox"]

NODE_COST = 20
"""What running one node of a template costs; copying a character costs 1."""
MAX_PRODUCT_BITS = 1024
MAX_INDENT = 8


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Those that look at the outside of a value are free; those that walk through it are not.
LOOKING_FILTERS = _names("count d default first last length")
WALKING_FILTERS = _names("dictsort items list map reject rejectattr reverse select selectattr sort unique")
LOOKING_TESTS = _names(
    "boolean defined false float integer iterable mapping none number sequence string true undefined"
)
WALKING_TESTS = _names("== eq equalto != ne > gt greaterthan >= ge < lt lessthan <= le in lower upper")
ATTRIBUTES: Mapping[type, frozenset[str]] = {
    str: _names(
        "capitalize count endswith find index isalnum isalpha isdigit islower isspace isupper join lower "
        "lstrip removeprefix removesuffix replace rfind rsplit rstrip split splitlines startswith strip "
        "title upper"
    ),
    dict: _names("get items keys values"),
    list: _names("count index"),
    tuple: _names("count index"),
    LoopContext: _names(
        "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"
    ),
}


class Sandbox(ImmutableSandboxedEnvironment):
    """Compiles and renders templates, one at a time: whoever uses it from several threads needs a lock.

    What is wrong with a template comes as `TemplateError` or as any other `Exception` of Jinja or Python.
    """

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension], cache_size=0
        )
        self._left = 0
        self._template_nodes = 0
        self.globals = {
            "dict": dict, "namespace": Namespace, "range": self._range, "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }  # fmt: skip
        self._functions = tuple(self.globals.values())
        self.filters = {name: FILTERS[name] for name in LOOKING_FILTERS}
        self.filters |= {name: self._paying_filter(FILTERS[name]) for name in WALKING_FILTERS}
        self.filters |= {
            "(compare)": self._pay_and_pass, "(join)": self._concat, "(loop)": self._turns,
            "(make)": self._pay_and_pass, "(print)": self._pay_and_pass, "(slice)": self._slice,
            "capitalize": lambda value: self._string(value).capitalize(),
            "float": lambda value, default=0.0: FILTERS["float"](self._string(value), default),
            "int": lambda value, default=0: FILTERS["int"](self._string(value), default),
            "join": lambda value, d="": self._method(d, "join", [self._string(item) for item in value]),
            "lower": lambda value: self._string(value).lower(),
            "replace": lambda value, old, new: self._method(self._string(value), "replace", old, new),
            "safe": self._string,
            "string": self._string,
            "title": lambda value: self._string(value).title(),
            "tojson": self._to_json,
            "trim": lambda value, chars=None: self._method(self._string(value), "strip", chars),
            "upper": lambda value: self._string(value).upper(),
        }  # fmt: skip
        tests: Mapping[str, Any] = TESTS
        self.tests = {name: tests[name] for name in LOOKING_TESTS}
        self.tests |= {name: self._paying_test(tests[name]) for name in WALKING_TESTS}
        # Jinja's own use %, which formats if the value is a string.
        self.tests |= {
            "even": lambda value: _integer(value) % 2 == 0,
            "odd": lambda value: _integer(value) % 2 == 1,
        }

    def compile_within(self, budget: int, source: str) -> jinja2.Template:
        self._left = budget
        tree = Rewriter().visit(self.parse(source))
        tree.set_environment(self)
        self._template_nodes = size_of(tree)
        return self.from_string(tree)

    def render_within(self, budget: int, template: jinja2.Template, variables: Mapping[str, Any]) -> str:
        self._left = budget
        return template.render(variables)

    # The budget.

    def _pay(self, cost: int) -> None:
        self._left -= cost
        if self._left < 0:
            raise TemplateError("the chat template does more work than its messages can need")

    def _pay_for(self, *values: Any) -> None:
        """Pay for the size of plain data, all that it holds included; refuse everything else."""
        pending = list(values)
        while pending:
            value = pending.pop()
            kind = type(value)
            if kind in (str, list, tuple, dict):
                self._pay(1 + len(value))
                pending += () if kind is str else value
                pending += value.values() if kind is dict else ()
            elif kind is int:
                self._pay(1 + value.bit_length() // 8)
            elif kind in (bool, float, type(None)) or isinstance(value, jinja2.Undefined):
                self._pay(1)
            else:
                refuse(f"uses a {kind.__name__} as a value")

    def _paid(self, value: Any) -> Any:
        """The value as plain data that has been paid for; iterators and views as lists."""
        if isinstance(value, Iterator | type({}.keys()) | type({}.values()) | type({}.items())):
            value = list(value)
        self._pay_for(value)
        return value

    # What the rewritten template goes through. As they take the context, Jinja never runs them when
    # compiling.

    @pass_context
    def _pay_and_pass(self, context: Context, value: Any) -> Any:
        self._pay_for(value)
        return value

    @pass_context
    def _turns(self, context: Context, value: Iterable[Any], size: int) -> Iterator[Any]:
        for item in value:
            self._pay(size * NODE_COST)
            yield item

    @pass_context
    def _slice(self, context: Context, value: Any) -> Any:
        self._pay(len(value))  # what it holds, it shares with the whole
        return value

    @pass_context
    def _concat(self, context: Context, *values: Any) -> str:
        return "".join([self._string(value) for value in values])

    # What Jinja asks.

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            refuse("formats text with %")
        if operator == "*":
            for value, count in (left, right), (right, left):
                if isinstance(value, str | list | tuple) and isinstance(count, int):
                    self._pay(len(value) * max(count, 0))
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MAX_PRODUCT_BITS:
                refuse("makes a huge number")
        return self._paid(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        hidden = {name: kwargs.pop(name) for name in ("_loop_vars", "_block_vars") if name in kwargs}
        if type(obj) is Macro:
            self._pay(self._template_nodes * NODE_COST)
            return self._paid(context.call(obj, *args, **kwargs, **hidden))
        if any(obj is function for function in self._functions):
            self._pay_for(args, kwargs)
            result = obj(*args, **kwargs)
            return result if type(result) is Namespace else self._paid(result)
        if isinstance(obj, jinja2.Undefined):
            obj()  # raises what is undefined, by name
        owner = obj.__self__ if isinstance(obj, BuiltinMethodType | MethodType) else None
        if type(owner) not in ATTRIBUTES or kwargs:
            refuse(f"calls a {type(obj).__name__}")
        return self._method(owner, obj.__name__, *args)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if not isinstance(argument, str | int):  # whose hash may be dear
            refuse(f"takes an element by a {type(argument).__name__}")
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if type(obj) is Namespace:
            return not attr.startswith("_")
        return attr in ATTRIBUTES.get(type(obj), ())

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        refuse(f"reaches for {attribute!r} of a {type(obj).__name__}")

    # Functions, methods, filters and tests.

    def _method(self, owner: Any, name: str, *args: Any) -> Any:
        if name not in ATTRIBUTES[type(owner)]:
            refuse(f"calls {name!r} of a {type(owner).__name__}")
        self._pay_for(args)
        if type(owner) is str:
            self._pay(len(owner))
            if name == "replace" and len(args) > 1:
                self._pay(owner.count(args[0]) * len(args[1]))
            elif args and args[0] and (name == "join" or name.endswith("strip")):
                self._pay(len(owner) * len(args[0]))
        elif type(owner) in (list, tuple):
            self._pay_for(owner)
        return self._paid(getattr(owner, name)(*args))

    def _string(self, value: Any) -> str:
        self._pay_for(value)
        return str(value)

    def _range(self, *bounds: int) -> list[int]:
        numbers = range(*bounds)
        self._pay(len(numbers))
        return list(numbers)

    def _to_json(self, value: Any, indent: int | None = None) -> str:
        if indent is not None and not 0 <= _integer(indent) <= MAX_INDENT:
            refuse(f"indents JSON by {indent}")
        self._pay_for(value)
        text = json.dumps(value, ensure_ascii=False, indent=indent)
        self._pay(len(text))
        return text

    def _paying_filter(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter of Jinja's that goes through its first argument, asking the others at each step."""
        given = 1 if hasattr(function, "jinja_pass_arg") else 0

        def paying(*args: Any, **kwargs: Any) -> Any:
            self._pay_for(args[given:], kwargs)
            options = sum(
                len(value) for value in (*args[given + 1 :], *kwargs.values()) if isinstance(value, str)
            )
            self._pay(len(args[given]) * (NODE_COST + options))
            return self._paid(function(*args, **kwargs))

        if given:
            paying.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
        return paying

    def _paying_test(self, function: Callable[..., Any]) -> Callable[..., bool]:
        def paying(*args: Any) -> bool:
            self._pay_for(args)
            return bool(function(*args))

        return paying


def _integer(value: Any) -> int:
    if not isinstance(value, int):
        refuse(f"uses a {type(value).__name__} as an integer")
    return value


def _strftime_now(format: str) -> str:
    """Today, for templates that tell the model; a width, which may be huge, is no part of the format."""
    if not isinstance(format, str) or not re.fullmatch(r"(?:%-?[A-Za-z%]|[^%]){0,64}", format):
        refuse(f"writes the date as {str(format)[:80]!r}")
    return datetime.now().strftime(format)


def _raise_exception(message: Any = "") -> NoReturn:
    raise TemplateError(f"the chat template refuses these messages: {' '.join(str(message).split())[:500]}")
