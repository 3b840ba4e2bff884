"""A chat template with a price on each of its operations, rendered by transformers as ever.

A template is a program that comes with a checkpoint. It is parsed here, its operations are
exchanged for those of `limits.py`, and `apply_chat_template` is given the result for the text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from transformers import PreTrainedTokenizerBase

from .limits import limited

logger = logging.getLogger("blendin")

_TEXT = "blendin_text"
"""A variable for the text of a block that goes through a filter."""


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    source: str,
    **settings: Any,
) -> str:
    """A conversation in a chat template, as `apply_chat_template` renders it.

    Args:
        tokenizer: whose template it is.
        messages: the conversation.
        source: the template's text.
        **settings: for the template, and `add_generation_prompt`.

    Raises:
        TemplateLimitError: the template would take more than `limits.SECONDS` or `limits.SIZE`.
        Exception: whatever else the template does wrong.
    """
    kind: Any = type(tokenizer)
    bounded = _takes_a_parsed_template(kind)
    with limited():
        return str(
            tokenizer.apply_chat_template(
                messages,
                chat_template=parsed(source) if bounded else source,
                tokenize=False,
                **settings,
            )
        )


@lru_cache(maxsize=128)
def parsed(source: str) -> nodes.Template:
    """A template with prices.

    Raises:
        TemplateSyntaxError: it is none.
    """
    tree = _ENVIRONMENT.parse(source)
    priced: nodes.Template = _Pricing().visit(tree)
    return priced


class _Generation(Extension):
    """`{% generation %}`, with which templates mark what a model has written."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


# As transformers sets it up.
_ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
)


@cache
def _takes_a_parsed_template(kind: Any) -> bool:
    """Whether a tokenizer renders by transformers' jinja, and a parsed template as well."""
    if kind.apply_chat_template is not PreTrainedTokenizerBase.apply_chat_template:
        return False  # mistral-common: it has no template
    try:
        from transformers.utils.chat_template_utils import render_jinja_template

        with limited():
            shown, _ = render_jinja_template(
                conversations=[[{"role": "user", "content": "x"}]],
                chat_template=parsed("{{ messages[0].content * 3 }}"),
            )
        if shown == ["xxx"]:
            return True
    except Exception as error:
        logger.debug("parsed chat templates", exc_info=error)
    logger.warning(
        "this version of transformers renders no parsed chat templates: those of guides are not "
        "bounded in time, so take guides from places that you trust"
    )
    return False


def _call(name: str, *args: nodes.Expr, like: nodes.Node, **further: Any) -> nodes.Call:
    """A call of a function of `limits.py`."""
    function = nodes.ImportedName(f"{__package__}.limits.{name}", lineno=like.lineno)
    keywords = further.get("kwargs", [])
    return nodes.Call(
        function,
        list(args),
        keywords,
        further.get("dyn_args"),
        further.get("dyn_kwargs"),
        lineno=like.lineno,
        environment=like.environment,
    )


class _Pricing(NodeTransformer):
    """Exchanges the operations of a template for those with a price."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick", like=node), lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(_call("tick", like=node), node.test, lineno=node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        own = sum(len(each.data) for each in node.nodes if isinstance(each, nodes.TemplateData))
        node.nodes = [
            each
            if isinstance(each, nodes.TemplateData | nodes.Const)
            else _call("shown", each, like=node)
            for each in node.nodes
        ]
        if own:
            node.nodes.insert(0, _call("spent", nodes.Const(own, lineno=node.lineno), like=node))
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        self.generic_visit(node)
        return _call("call", node.node, *node.args, like=node, **_further(node))

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        assert node.node is not None, "block filters are made plain ones"
        name = nodes.Const(node.name, lineno=node.lineno)
        return _call("apply_filter", name, node.node, *node.args, like=node, **_further(node))

    def visit_FilterBlock(self, node: nodes.FilterBlock) -> Any:
        shown = nodes.Output([_over_text(node.filter)], lineno=node.lineno)
        return [self.visit(_text_of(node.body, node)), self.visit(shown)]

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> Any:
        if node.filter is None:
            return self.generic_visit(node)
        set_target = nodes.Assign(node.target, _over_text(node.filter), lineno=node.lineno)
        return [self.visit(_text_of(node.body, node)), self.visit(set_target)]

    def visit_Mul(self, node: nodes.Mul) -> nodes.Node:
        return self._operator("multiply", node)

    def visit_Pow(self, node: nodes.Pow) -> nodes.Node:
        return self._operator("power", node)

    def visit_Mod(self, node: nodes.Mod) -> nodes.Node:
        return self._operator("modulo", node)

    def _operator(self, name: str, node: nodes.BinExpr) -> nodes.Node:
        self.generic_visit(node)
        return _call(name, node.left, node.right, like=node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            each if isinstance(each, nodes.Const) else _call("made", each, like=node)
            for each in node.nodes
        ]
        return _call("made", node, like=node)

    def _made(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _call("made", node, like=node)

    visit_Add = visit_List = visit_Dict = _made

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        if node.ctx != "load":
            return self.generic_visit(node)
        return self._made(node)


def _further(node: nodes.Call | nodes.Filter) -> dict[str, Any]:
    return {"kwargs": node.kwargs, "dyn_args": node.dyn_args, "dyn_kwargs": node.dyn_kwargs}


def _text_of(body: list[nodes.Node], like: nodes.Node) -> nodes.AssignBlock:
    """A block whose text is kept in a variable."""
    target = nodes.Name(_TEXT, "store", lineno=like.lineno)
    return nodes.AssignBlock(target, None, body, lineno=like.lineno)


def _over_text(chain: nodes.Filter) -> nodes.Filter:
    """A block's filters over the variable with its text."""
    innermost = chain
    while isinstance(innermost.node, nodes.Filter):
        innermost = innermost.node
    innermost.node = nodes.Name(_TEXT, "load", lineno=chain.lineno)
    return chain
