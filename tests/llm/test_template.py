import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import tokenizer_metadata, write_gguf

from coro_rt.errors import ModelFileError, TemplateError
from coro_rt.llm.gguf_file import open_gguf
from coro_rt.llm.template import ChatTemplate
from coro_rt.llm.tokenizer import Tokenizer

HELLO = [{"role": "user", "content": "Hello"}]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def render(source: str, messages: list = HELLO, **options) -> str:
    return ChatTemplate(source, **options).render(messages)


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> tuple[ChatTemplate, Tokenizer]:
    metadata = tokenizer_metadata() | {"tokenizer.chat_template": CHATML}
    file = open_gguf(write_gguf(tmp_path_factory.mktemp("template") / "f.gguf", metadata))
    return ChatTemplate.from_gguf(file), Tokenizer.from_gguf(file)


# What templates can do.


@pytest.mark.model
def test_the_default_model_gets_its_default_system_prompt(model_path):
    template = ChatTemplate.from_gguf(open_gguf(model_path))
    system = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    )
    user = "<|im_start|>user\n Hello <|im_end|>\n"
    messages = [{"role": "user", "content": " Hello "}]
    assert template.render(messages) == system + user + "<|im_start|>assistant\n"
    assert template.render(messages, add_generation_prompt=False) == system + user
    own = [{"role": "system", "content": "Be brief."}, *messages, {"role": "assistant", "content": "Hi."}]
    assert template.render(own) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n" + user + "<|im_start|>assistant\nHi.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


WORKING = {
    "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}": "<s>Hello</s>",
    "{% for m in messages -%}\n  {{ m.role|upper ~ ': ' ~ m.content }}\n{%- endfor %}": "USER: Hello",
    "{%- set ns = namespace(n=0) %}{% for i in range(5) %}{% if i is odd %}{% continue %}{% endif %}"
    "{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}": "6",
    "{% macro say(m, end='.') %}{{ m['content'].strip() }}{{ end }}{% endmacro %}"
    "{% for m in messages %}{{ say(m) }}{{ say(m, end='!') }}{% endfor %}": "Hello.Hello!",
    "{{ messages|selectattr('role', 'eq', 'user')|map(attribute='content')|list|tojson }}": '["Hello"]',
    "{{ {'a': [1, 2.5, none, true, 'ü']} | tojson(indent=2) | length }}": "60",
    "{{ 'x' if messages[-1].role == 'user' and 'ell' in messages[-1].content else 'y' }}": "x",
    "{{ messages[1:] | length }}{{ messages | length - 1 }}{{ 'abc'[::-1] }}": "00cba",
    "{% set x %}<{{ messages[0].content.split('l')[0] }}>{% endset %}{{ x * 2 }}": "<He><He>",
    "{% for k, v in messages[0].items() %}{{ loop.index }}{{ k }}{{ v }},{% endfor %}": (
        "1roleuser,2contentHello,"
    ),
    "{{ tools is defined }}{{ messages[0].tool_calls is defined }}{{ nothing }}": "FalseFalse",
    "{{ 'a,b'|replace(',', ';') }}{{ ['a', 'b']|join('-') }}{{ ' x '|trim }}{{ 'ab'|title }}": "a;ba-bxAb",
    "{{ '7' | int + 1 }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ '1.5'|float }}": "83102431.5",
    "{% for m in messages %}{{ loop.first }}{{ loop.length }}{% else %}none{% endfor %}": "True1",
    "{% call(x) wrap() %}{{ x }}{% endcall %}": None,
    "{% macro wrap() %}<{{ caller('in') }}>{% endmacro %}{% call(x) wrap() %}{{ x }}{% endcall %}": "<in>",
    "{% filter upper %}a{{ 'b' }}{% endfilter %}{% with a = 1 %}{{ a }}{% endwith %}": "AB1",
}


@pytest.mark.parametrize("source", WORKING)
def test_what_chat_templates_use_works(source):
    if WORKING[source] is None:
        with pytest.raises(TemplateError, match="cannot be rendered: 'wrap' is undefined"):
            render(source)
    else:
        assert render(source, bos_token="<s>", eos_token="</s>") == WORKING[source]


def test_a_template_can_refuse_messages():
    with pytest.raises(TemplateError, match="refuses these messages: only user and assistant"):
        render("{{ raise_exception('only user\n and assistant') }}")


def test_long_chats_stay_within_the_budget():
    source = (
        "{% for m in messages %}"
        "{% if loop.index0 % 2 == 0 and m.role != 'user' %}{{ raise_exception('order') }}{% endif %}"
        "{% if loop.last and messages[loop.index0 - 1].role == 'assistant' %}!{% endif %}"
        "{{ '<|im_start|>' ~ m.role ~ '\n' ~ (m.content | trim) ~ '<|im_end|>' }}{% endfor %}"
    )
    messages = [{"role": ["user", "assistant"][i % 2], "content": "word " * 200} for i in range(2001)]
    assert len(render(source, messages)) > 2_000_000


# What people wrote cannot become a control token.

SAFE = st.text("ab <|>\n", max_size=12)
CONTENT = st.lists(SAFE | st.sampled_from(CONTROL) | st.sampled_from(["<|im_", "end|>", "<", "\ue000"])).map(
    "".join
)


@given(contents=st.lists(CONTENT, min_size=1, max_size=3))
def test_control_tokens_come_from_the_template_alone(chat, contents):
    template, tokenizer = chat
    messages = [{"role": "user", "content": content} for content in contents]
    ids = []
    for text, special in template.render_parts(messages):
        ids += tokenizer.encode(text, special=special)
    assert [i for i in ids if i <= 2] == [1, 2] * len(contents) + [1]
    assert (
        template.render(messages)
        == "".join(f"<|im_start|>user\n{content.strip()}<|im_end|>\n" for content in contents)
        + "<|im_start|>assistant\n"
    )


def test_messages_without_such_names_are_one_part(chat):
    template, _ = chat
    assert template.render_parts([{"role": "user", "content": "a < b |> \ue000"}]) == [
        ("<|im_start|>user\na < b |> \ue000<|im_end|>\n<|im_start|>assistant\n", True)
    ]


def test_neighbours_cannot_make_a_control_token_together():
    template = ChatTemplate(
        "{% for m in messages %}{{ m.content | trim }}{% endfor %}", control_tokens=["<|im_end|>"]
    )
    messages = [{"role": "user", "content": text} for text in ("a<|im_ ", "end|>", "<|im_end|", ">")]
    assert template.render_parts(messages) == [
        ("a", True), ("<|im_", False), ("end|>", True), ("<|im_end|", False), (">", True)
    ]  # fmt: skip


def test_a_cut_or_changed_message_does_not_set_a_name_free():
    messages = [{"role": "user", "content": "x<|im_end|>y"}]
    for expression, text in {
        "m.content[1:]": "<|im_end|>y",
        "m.content[:2] ~ m.content[2:]": "x<|im_end|>y",
        "m.content | upper": "X<|im_end|>Y",
        "m.content.split('|') | join('|')": "x<|im_end|>y",
        "m.content | tojson": '"x<|im_end|>y"',
        "m.content | list | reverse | list | join": "y<|im_end|>x",
    }.items():
        template = ChatTemplate(
            "{% for m in messages %}{{ " + expression + " }}{% endfor %}",
            control_tokens=["<|im_end|>", "<|im"],
        )
        parts = template.render_parts(messages)
        assert "".join(part for part, _ in parts) == text
        assert ("<|im_end|>", False) in parts


def test_all_private_use_characters_at_once_are_an_error(chat):
    template, _ = chat
    every = "".join(map(chr, range(0xE000, 0xF900)))
    with pytest.raises(TemplateError, match="private-use"):
        template.render([{"role": "user", "content": every + "<|im_end|>"}])


# What templates cannot do.

ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ ['__class__'] | map(attribute='__class__') | list }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ [''] | selectattr('__class__') | list }}",
    "{{ '' | attr('__class__') }}",
    "{{ '{0.__class__}'.format('') }}",
    "{{ '{x.__class__}'.format_map({'x': ''}) }}",
    "{{ '%s' % messages }}",
    "{{ '%s' | format(messages) }}",
    "{{ range.__self__ }}",
    "{{ range.__func__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception['__globals__'] }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ namespace().__class__ }}",
    "{{ namespace()._Namespace__attrs }}",
    "{{ dict.__base__ }}",
    "{{ dict.fromkeys([1]) }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ self }}",
    "{{ nothing.__class__ }}",
    "{{ nothing() }}",
    "{{ lipsum.__globals__ }}",
    "{{ cycler.__init__ }}",
    "{% for m in messages %}{{ loop.__class__ }}{% endfor %}",
    "{% for m in messages %}{{ loop._iterable }}{% endfor %}",
    "{% for m in messages %}{{ loop }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__call__ }}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% macro m() %}{% endmacro %}{{ m }}",
    "{% macro m() %}{{ caller.__class__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{{ range }}",
    "{{ [range] }}",
    "{{ namespace(a=1) }}",
    "{{ namespace(range) }}",
    "{{ 'a'.encode() }}",
    "{{ 'a'.join.__self__ }}",
    "{{ 'a'.upper.__class__ }}",
    "{{ (1).to_bytes(8, 'big') }}",
    "{{ (1).__class__ }}",
    "{{ 1.5.hex() }}",
    "{% include 'x' %}",
    "{% import 'x' as x %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
    "{% block b %}{% endblock %}",
    "{% autoescape true %}{% endautoescape %}",
    "{% do messages.append(1) %}",
    "{{ messages | pprint }}",
    "{{ 'x' | unknown }}",
    "{{ 'x' is unknown }}",
    "{{ range(*[3]) }}",
    "{{ dict(**{'a': 1}) }}",
    "{{ messages[(1, 2)] }}",
    "{{ 'a' is filter }}",
    "{{ '(print)' | map('attr', '__class__') | list }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_there_is_no_way_out(source):
    with pytest.raises(TemplateError) as error:
        render(source)
    assert "\n" not in str(error.value)


DOUBLING = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = STEP %}{% endfor %}"


def doubling(start: str, step: str, end: str = "") -> str:
    return DOUBLING.replace("START", start).replace("STEP", step) + end


def in_loop(body: str) -> str:
    return "{% set x = 'a' * 1000000 %}{% for a in range(9999) %}" + body + "{% endfor %}"


BOMBS = {
    "repeated text": "{{ 'a' * 10**10 }}",
    "repeated text, the other way round": "{{ 10**10 * 'a' }}",
    "a repeated list": "{{ [1] * 10**10 }}",
    "a large power": "{{ 9 ** 9999 }}",
    "powers of powers": doubling("3", "ns.x ** 9"),
    "squares of squares": doubling("99", "ns.x * ns.x"),
    "doubled text": doubling("'a'", "ns.x + ns.x"),
    "joined text": doubling("'a'", "ns.x ~ ns.x"),
    "doubled lists": doubling("[1]", "ns.x + ns.x"),
    "text in lists": doubling("['a' * 100000]", "ns.x + ns.x"),
    "lists in lists": doubling("[1]", "[ns.x, ns.x]"),
    "pairs in pairs": doubling("1", "(ns.x, ns.x)"),
    "mappings in mappings": doubling("1", "{'a': ns.x, 'b': ns.x}"),
    "mappings by a function": doubling("1", "dict(a=ns.x, b=ns.x)"),
    "namespaces in namespaces": doubling("1", "namespace(a=ns.x, b=ns.x)"),
    "a namespace in a list": "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}",
    "captured text": doubling("'a'", "y").replace(
        "{% set ns.x", "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x"
    ),
    "replaced text": doubling("'a'", "ns.x.replace('a', 'aa')"),
    "replaced at once": "{% set x = 'a' * 1000000 %}{{ x | replace('a', x) }}",
    "replaced nothing": "{% set x = 'a' * 1000000 %}{{ x.replace('', x) }}",
    "a long separator": "{% set x = 'a' * 1000000 %}{{ x | join(x) }}",
    "a long separator, as a method": "{% set x = 'a' * 1000000 %}{{ x.join(x) }}",
    "long strips": "{% set x = 'a' * 1000000 %}{{ x.strip(x ~ 'b') }}",
    "long trims": "{% set x = 'a' * 1000000 %}{{ x | trim(x) }}",
    "loops in loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "loops in a macro": "{% macro m() %}{% for a in range(9999) %}{% endfor %}{% endmacro %}"
    "{% for b in range(9999) %}{{ m() }}{% endfor %}",
    "a long range": "{% for a in range(10**9) %}{% endfor %}",
    "an endless range": "{% for a in range(10**30) %}{% endfor %}",
    "a long range as a value": "{{ range(10**12) | list | length }}",
    "printing in loops": "{% for a in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
    "statements in loops": "{% for a in range(99999) %}" + "{% set b = a %}" * 3000 + "{% endfor %}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(60) }}",
    "a macro that prints itself twice": ""
    "{% macro m(n) %}{{ m(n - 1) * 2 if n else 'a' }}{% endmacro %}{{ m(60) }}",
    "a recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "comparing in loops": "{% set x = 'a' * 1000000 ~ 'b' %}{% set y = 'a' * 1000000 ~ 'c' %}"
    "{% for a in range(9999) %}{% if x == y %}{% endif %}{% endfor %}",
    "searching in loops": in_loop("{% if 'b' in x %}{% endif %}"),
    "testing in loops": in_loop("{% if x is upper %}{% endif %}"),
    "slicing in loops": in_loop("{% set y = x[1:] %}"),
    "filters in loops": "{% for a in range(999) %}{% set y = range(99999) | sort %}{% endfor %}",
    "filters by filters": "{{ range(99999) | map('string') | map('replace', '9', '9' * 10000) | list }}",
    "long paths": "{% set p = 'a.' * 50000 %}{{ range(9999) | map(attribute=p) | list }}",
    "a wide format": "{{ '%1000000000d' % 1 }}",
    "a wide format in a test": "{{ '%1000000000d' is odd }}",
    "a wide format by a division": "{{ '%1000000000d' is divisibleby(3) }}",
    "a wide text": "{{ 'a' | center(1000000000) }}",
    "a wide text, as a method": "{{ 'a'.ljust(1000000000) }}",
    "an indented text": "{{ 'a' | indent(1000000000) }}",
    "indented JSON": "{{ messages | tojson(indent=1000000000) }}",
    "indented JSON, as text": "{{ messages | tojson(indent='x' * 100000) }}",
    "words of lorem ipsum": "{{ lipsum(1000000) }}",
    "a long number": "{{ " + "9" * 50_000 + " }}",
    "a long number from text": "{{ ('9' * 4000) | int * ('9' * 4000) | int }}",
    "brackets": "{{ " + "(" * 30_000 + ")" * 30_000 + " }}",
    "lists of lists of lists": "{{ " + "[" * 30_000 + "]" * 30_000 + " }}",
    "many terms": "{{ 1" + " + 1" * 16_000 + " }}",
    "conditions in conditions": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "loops in loops in the source": "{% for a in [1] %}" * 900 + "{% endfor %}" * 900,
    "a long source": "x" * 100_000,
    "division by zero": "{{ 1 // 0 }}",
    "an overflow": "{{ 1e300 * 1e300 ** 2 }}",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_no_template_uses_more_than_its_budget(bomb):
    with pytest.raises(TemplateError) as error:
        render(BOMBS[bomb])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("source", ["{{ ", "{% for %}", "{% endif %}", "{{ 1 1 }}", "{% if x %}", "{{ 'x }}"])
def test_a_broken_template_is_an_error_when_it_is_compiled(source):
    with pytest.raises(TemplateError, match="cannot be compiled"):
        ChatTemplate(source)


def test_after_a_failure_a_template_still_works():
    template = ChatTemplate(
        "{% if messages|length > 1 %}{{ 'a' * 10**10 }}{% endif %}{{ messages[0].content }}"
    )
    with pytest.raises(TemplateError, match="more work"):
        template.render(HELLO * 2)
    assert template.render(HELLO) == "Hello"


def test_threads_can_share_a_template():
    template = ChatTemplate(CHATML)
    results: list[str] = []

    def work() -> None:
        results.extend(template.render(HELLO * 20) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [template.render(HELLO * 20)] * 80


# What comes in.

WRONG_MESSAGES = [
    ("Hello", TypeError, "messages is of type str, not a list"),
    (None, TypeError, "messages is of type NoneType"),
    ({"role": "user", "content": "x"}, TypeError, "messages is of type dict"),
    ([], TemplateError, "no messages"),
    (["Hello"], TypeError, "message 0 is of type str, not a mapping"),
    ([*HELLO, {"role": "user"}], TemplateError, r"message 1 has the keys \['role'\]"),
    (
        [{"role": "user", "content": "x", "name": "y"}],
        TemplateError,
        r"has the keys \['content', 'name', 'role'\]",
    ),
    (
        [{"role": "user", "content": None}],
        TypeError,
        "content of message 0 is of type NoneType, not a string",
    ),
    ([{"role": "user", "content": [{"type": "text"}]}], TypeError, "content of message 0 is of type list"),
    ([{"role": 1, "content": "x"}], TypeError, "role of message 0 is of type int"),
    ([{"role": "user<|im_end|>", "content": "x"}], TemplateError, "role of message 0 is 'user<"),
    ([{"role": "", "content": "x"}], TemplateError, "role of message 0 is ''"),
]


@pytest.mark.parametrize(("messages", "error", "text"), WRONG_MESSAGES)
def test_wrong_messages_are_explained(messages, error, text):
    with pytest.raises(error, match=text):
        ChatTemplate(CHATML).render(messages)


def test_a_file_without_a_template_gives_none(tmp_path):
    assert ChatTemplate.from_gguf(open_gguf(write_gguf(tmp_path / "f", tokenizer_metadata()))) is None


def test_a_template_that_is_no_text_is_an_error(tmp_path):
    metadata = tokenizer_metadata() | {"tokenizer.chat_template": 7}
    with pytest.raises(ModelFileError, match="chat_template' is int '7', not a string"):
        ChatTemplate.from_gguf(open_gguf(write_gguf(tmp_path / "f", metadata)))


def test_the_tokens_come_from_the_file(tmp_path):
    metadata = tokenizer_metadata() | {"tokenizer.chat_template": "{{ bos_token }}-{{ eos_token }}"}
    assert (
        ChatTemplate.from_gguf(open_gguf(write_gguf(tmp_path / "f", metadata))).render(HELLO)
        == "<|im_start|>-<|im_end|>"
    )
