"""Chat templates are programs of strangers: they end in time, in little memory, in the sandbox."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from chat_templates import CHATML, SHOW_ALL, tokenizer_with
from conftest import model
from hypothesis import given, settings
from hypothesis import strategies as st

from blendin import BlendInGenerator
from blendin.models.local import LanguageModel
from blendin.prompts import guide_text
from blendin.templating import TemplateLimitError, limits, render
from blendin.vocab.end_tokens import end_ids

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How\nmany <|x|>?"},
    {"role": "assistant", "content": "So  many."},
    {"role": "user", "content": "Why?"},
]

LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}BODY{% endfor %}{% endfor %}"
GROW = (
    "{% set ns = namespace(s=START) %}{% for i in range(70) %}BODY{% endfor %}{{ ns.s | length }}"
)


def grow(expression: str, start: str = "'xy'") -> str:
    body = f"{{% set ns.s = {expression} %}}"
    return GROW.replace("START", start).replace("BODY", body)


ENDLESS = {
    "nested loops": LOOP.replace("BODY", ""),
    "nested loops that write": LOOP.replace("BODY", "x"),
    "a loop with a condition": "{% for i in range(99999) if range(99999) | sum < 0 %}{% endfor %}",
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a recursive loop": (
        "{% for n in [40] recursive %}{% if n %}{{ loop([n - 1, n - 1]) }}{% endif %}{% endfor %}"
    ),
    "a call block": (
        "{% macro f(n) %}{{ caller() }}{% endmacro %}"
        "{% for i in range(99999) %}{% for j in range(999) %}{% call f(1) %}{% endcall %}"
        "{% endfor %}{% endfor %}"
    ),
    "filters over filters": (
        "{{ range(99999) | map('string') | select('in', 'yz' * 99999) | list | length }}"
    ),
    "map over map": (
        "{% for i in range(99999) %}{{ range(9999) | map('string') | map('upper') | list }}"
        "{% endfor %}"
    ),
}
LARGE = {
    "a repeated text": "{{ ('x' * 10**10) | length }}",
    "a text repeated from the right": "{{ (10**10 * 'x') | length }}",
    "a repeated list": "{{ ([0] * 10**10) | length }}",
    "a repeated tuple": "{{ ((0,) * 10**10) | length }}",
    "a repeated range": "{{ (range(99999) | list * 10**9) | length }}",
    "a power": "{{ 10 ** (10 ** 9) }}",
    "squares": grow("ns.s * ns.s", "9"),
    "doubled by ~": grow("ns.s ~ ns.s"),
    "doubled by +": grow("ns.s + ns.s"),
    "doubled by join": grow("[ns.s, ns.s] | join"),
    "doubled by str.join": grow("''.join([ns.s, ns.s])"),
    "doubled by replace": grow("ns.s.replace('x', 'xx').replace('y', 'yy')"),
    "doubled by the filter replace": grow("ns.s | replace('x', 'xx') | replace('y', 'yy')"),
    "doubled by %": grow("'%s%s' % (ns.s, ns.s)"),
    "doubled by format": grow("'{0}{0}'.format(ns.s)"),
    "doubled by a list in a list": grow("[ns.s, ns.s]", "[1]"),
    "doubled by a mapping": grow("{'a': ns.s, 'b': ns.s}", "{}"),
    "doubled by a list's +": grow("ns.s + ns.s", "[1]"),
    "doubled by a block": (
        GROW.replace("START", "'x'").replace(
            "BODY", "{% set t %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = t %}"
        )
    ),
    "doubled by tojson": grow("(ns.s | tojson) ~ ns.s"),
    "a wide %": "{{ '%10000000000d' % 1 }}",
    "a %* of a value": "{{ '%*d' % (10**9, 1) }}",
    "a precise %": "{{ '%.999999999f' % 1.5 }}",
    "a % over a mapping": "{{ ('%(a)s' * 99999) % {'a': 'x' * 99999} }}",
    "a wide format": "{{ '{:>10000000000}'.format(1) }}",
    "a format of a wide value": "{{ '{:{}}'.format(1, 10**9) }}",
    "a format of a wide text": "{{ '{:{w}}'.format(1, w='999999999') }}",
    "a wide format_map": "{{ '{a:>10000000000}'.format_map({'a': 1}) }}",
    "the filter format": "{{ '%10000000000d' | format(1) }}",
    "a mapped format": "{{ ['%999999999d'] | map('format', 1) | list }}",
    "the filter center": "{{ 'x' | center(10**9) }}",
    "center by name": "{{ 'x' | center(**{'width': 10**9}) }}",
    "center": "{{ 'x'.center(*[10**9]) }}",
    "center as an attribute": "{{ ('x' | attr('center'))(10**9) }}",
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**9) }}",
    "a mapped center": "{{ range(99999) | map('string') | map('center', 99999) | list }}",
    "expandtabs": "{{ ('\\t' * 99999).expandtabs(99999) }}",
    "translate": "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}",
    "indent": "{{ ('\\n' * 99999) | indent(99999) }}",
    "tojson with an indent": "{{ ([1] * 99999) | tojson(indent=99999) }}",
    "join": "{{ ('x' * 99999).join('y' * 99999) }}",
    "the filter join": "{{ (['x'] * 9999) | join('y' * 9999) }}",
    "join of an attribute": "{{ ([{'a': 'x' * 99999}] * 999) | join('', attribute='a') }}",
    "replace": "{{ ('x' * 99999) | replace('x', 'y' * 99999) }}",
    "wordwrap": "{{ ('a ' * 49999) | wordwrap(1, true, 'y' * 99999) }}",
    "sum of lists": "{{ ([[0] * 999] * 99999) | sum(start=[]) }}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "lipsum": "{{ lipsum(n=10**7) }}",
    "bytes": "{{ (5).to_bytes(10**10, 'big') }}",
    "a filter over a block": "{% filter center(10**10) %}x{% endfilter %}",
    "a filter over a set block": "{% set x | center(10**10) %}x{% endset %}{{ x }}",
    "striptags": "{{ ('<!--' * 999999) | striptags }}",
    "urlize": "{{ ('a.b ' * 999999) | urlize }}",
    "much that is written": "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
}
REACHING = {
    "a class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a class by attr": "{{ (messages | attr('__class__')).mro() }}",
    "a class by item": "{{ ''['__class__']['mro']() }}",
    "a class in a format": "{{ '{0.__class__.mro}'.format('') }}",
    "a class in format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "a class by map": "{{ [''] | map(attribute='__class__.mro') | first }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "globals of a macro": "{% macro f() %}{% endmacro %}{{ f.__init__.__globals__ }}",
    "globals of ours": "{{ self.__init__.__globals__ }}",
    "append": "{{ messages.append(1) }}",
    "clear": "{{ messages[0].clear() }}",
    "an import": "{% import 'os' as os %}",
    "an inclusion": "{% include '/etc/passwd' %}",
    "a large range": "{% for i in range(10**9) %}{% endfor %}",
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A short time for templates, and too little memory for those that are not held."""
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def rendered(source: str) -> str:
    return render(tokenizer_with(source), TURNS, source, add_generation_prompt=True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_does_not_end_is_stopped(name: str) -> None:
    began = time.thread_time()
    with pytest.raises(TemplateLimitError, match=r"it runs for more than 0\.2 s"):
        rendered(ENDLESS[name])
    assert time.thread_time() - began < 20  # all of it would take years


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", LARGE)
def test_a_template_that_takes_memory_is_stopped_before_it_does(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(TemplateLimitError, match=r"it (makes|asks|formats|gives|adds|runs)"):
        rendered(LARGE[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


@pytest.mark.parametrize("name", REACHING)
def test_a_template_reaches_nothing_outside(name: str) -> None:
    """transformers' sandbox; what stands in our copy of the template opens no door in it."""
    try:
        shown = rendered(REACHING[name])
    except Exception:
        return
    assert "class" not in shown and "<" not in shown
    assert name == "a class by attr" or not shown.strip("[] \n")


@pytest.mark.parametrize("of", [ENDLESS, LARGE, REACHING], ids=["endless", "large", "reaching"])
def test_the_guide_is_named(of: dict[str, str]) -> None:
    source = next(iter(of.values()))
    made = tokenizer_with(source, name_or_path="some/guide")
    with pytest.raises(ValueError, match=r"the chat template of some/guide cannot render .*guide"):
        guide_text([TURNS[1]], made)


def test_a_model_whose_template_does_not_end_is_refused_at_loading() -> None:
    made = tokenizer_with(ENDLESS["nested loops"])
    with pytest.raises(ValueError, match=r"template of some/model cannot be used \(it runs for"):
        end_ids(None, made, len(made), "some/model")
    lm, _ = model("llama", "byte-level")
    with pytest.raises(ValueError, match="the chat template of Tiny cannot be used"):
        LanguageModel(lm, made, "Tiny")


def count_operations_for_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates that end are never too slow, whatever else uses the processor."""
    ticks = count()
    clock = SimpleNamespace(thread_time=lambda: next(ticks) * 1e-3)
    monkeypatch.setattr(limits, "time", clock)


def test_a_template_that_does_not_end_for_some_contents_costs_its_prompt_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count_operations_for_seconds(monkeypatch)
    source = (
        "{% if 'loop' in messages[-1].content %}" + ENDLESS["nested loops"] + "{% endif %}" + CHATML
    )
    guide = model("llama", "byte-level", 1)[0], tokenizer_with(source)
    gen = BlendInGenerator(model("llama", "byte-level", 0), guide)
    outs = gen.generate(["a", "loop", "b"], max_new_tokens=2)
    assert [out.error is None for out in outs] == [True, False, True]
    assert "refuses this conversation: it runs for more than 0.2 s" in str(outs[1].error)
    with pytest.raises(ValueError, match="it runs for more than"):
        gen.generate("loop")


FEATURES = {
    "filters over blocks": (
        "{% filter upper | indent(2) %}a{{ messages[1].content }}\nb{% endfilter %}"
        "{% set ns = namespace(x='') %}"
        "{% set ns.x | upper | replace('H', 'j') %}{{ messages[1].content }}{% endset %}{{ ns.x }}"
    ),
    "generation": (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{{ loop.index }}{% endfor %}"
    ),
    "operators": (
        "{% set a, b = (1, 2) %}{{ a + b }}{{ 'x' * 3 }}{{ 2 ** 3 }}{{ 7 % 4 }}{{ 7 // 2 }}{{ -a }}"
        "{{ '%s-%05d' % ('a', 3) }}{{ '%(a)s' % {'a': 1} }}{{ '{:>4}{}'.format(1, 'z') }}"
        "{{ [1] + [2] }}{{ (1,) + (2,) }}{{ 'a' ~ 1 ~ none }}{{ 1 if a == 1 else 2 }}"
    ),
    "filters": (
        "{{ messages | map(attribute='role') | unique | join(',') }}"
        "{{ messages | selectattr('role', 'equalto', 'user') | list | tojson(indent=2) }}"
        "{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='content') | list }}"
        "{{ ['a', 'b'] | map('upper') | map('replace', 'A', 'c') | join('+') }}"
        "{{ messages | groupby('role') | length }}{{ range(5) | batch(2, 0) | list }}"
        "{{ [3, 1, 2] | sort | join }}{{ [1, 2] | sum }}{{ messages | sum('n', 3) }}"
        "{{ nope | default('d') }}{{ 'x' | int('3') }}{{ '5' | int + 2 }}"
        "{{ none | map('x') | list }}"
        "{{ messages | join(' ', attribute='role') }}{{ 'a b' | wordcount }}{{ ' a ' | trim }}"
        "{{ messages | first }}{{ messages | last }}{{ {'b': 1, 'a': 2} | dictsort }}"
        "{{ 3.14159 | round(2) }}"
    ),
    "methods": (
        "{{ messages[1].content.split('\\n')[-1].strip() }}{{ 'aXb'.replace('X', '-', 1) }}"
        "{{ ','.join(['a', 'b']) }}{{ 'x'.rjust(5, '.') }}{% for k, v in {'a': 1}.items() %}"
        "{{ k }}{{ v }}{% endfor %}{{ messages[0].get('nope', 'd') }}{{ 'a'.startswith('a') }}"
    ),
    "macros": (
        "{% macro f(name, context=1, function=2) %}{{ name }}{{ context }}{{ function }}"
        "{{ caller() if caller else '' }}{{ varargs }}{{ kwargs }}{% endmacro %}"
        "{{ f('a', context='c', function='d') }}{% call f(1, 2, 3, 4, z=5) %}in{% endcall %}"
    ),
    "loops": (
        "{% for m in messages if m.role != 'x' %}{{ loop.cycle('a', 'b') }}"
        "{{ loop.changed(m.role) }}{{ loop.previtem.role if loop.previtem }}{{ loop.length }}"
        "{% if loop.index == 3 %}{% break %}{% endif %}{% if loop.first %}{% continue %}{% endif %}"
        "{% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}"
        "{% for x in [[1, [2]], 3] recursive %}{% if x is iterable %}({{ loop(x) }})"
        "{% else %}{{ x }}{% endif %}{% endfor %}"
    ),
    "escaping": (
        "{% autoescape true %}{{ '<' ~ 'b' }}<i>{{ '<' | e }}{{ ['<', '>'] | join('&') }}"
        "{% endautoescape %}"
    ),
    "globals": (
        "{{ cycler('a', 'b').next() }}{% set j = joiner(',') %}{{ j() }}{{ j() }}{{ dict(a=1).a }}"
        "{{ namespace(a=2).a }}{{ raise_exception('boo') if false else 'ok' }}"
        "{{ strftime_now('%Y') }}"
    ),
    "an error of its own": "{{ raise_exception('no system') }}",
    "an error of syntax": "{% for %}",
    "an undefined variable": "{{ nope.nope }}",
}


def outcome(render: Any) -> str:
    try:
        return f"shows {render()}"
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"


@pytest.mark.parametrize("source", [*SHOW_ALL.values(), *FEATURES.values()])
def test_other_templates_are_rendered_as_ever(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count_operations_for_seconds(monkeypatch)
    made = tokenizer_with(source)
    for turns in (TURNS, TURNS[1:2], TURNS[1:3]):
        for opened in (False, True):
            theirs = outcome(
                lambda turns=turns, opened=opened: made.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=opened
                )
            )
            ours = outcome(
                lambda turns=turns, opened=opened: render(
                    made, turns, source, add_generation_prompt=opened
                )
            )
            assert ours == theirs


atoms = st.sampled_from(
    (
        "'xy'",
        "7",
        "10",
        "99999",
        "messages",
        "range(9999)",
        "[1, 'a']",
        "{'a': 'b'}",
        "ns.s",
        "none",
    )
)
UNARY = (
    "({} | length)",
    "({} | string)",
    "({} | list)",
    "[{}]",
    "(-{})",
    "({} | tojson)",
    "({} | sum)",
)
BINARY = (
    "({} * {})",
    "({} ** {})",
    "({} + {})",
    "({} ~ {})",
    "({} % {})",
    "[{}, {}]",
    "({} | join({}))",
    "({} | center({}))",
    "({} | map('replace', 'x', {}) | list)",
    "({} | string).replace('x', {} | string)",
)
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds(str.format, st.sampled_from(UNARY), inner),
        st.builds(str.format, st.sampled_from(BINARY), inner, inner),
    ),
    max_leaves=12,
)


@pytest.mark.fuzz
@settings(deadline=None, max_examples=100)
@given(st.lists(expressions, min_size=1, max_size=3))
def test_any_expression_ends_in_time_and_in_little_memory(some: list[str]) -> None:
    body = "".join(f"{{% set ns.s = {each} %}}" for each in some)
    source = GROW.replace("START", "'x'").replace("BODY", body)
    began = time.thread_time()
    outcome(lambda: rendered(source))
    assert time.thread_time() - began < 20
