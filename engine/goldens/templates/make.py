#!/usr/bin/env python3
"""What chat templates may use, rendered by transformers: rewrites engine/goldens/templates/expected.json.

    VENV/bin/python engine/goldens/templates/make.py
"""
import datetime
import json
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

TEMPLATES = [
    "{{ True }} {{ False }} {{ None }} {{ true }} {{ false }} {{ none }} {{ 'a' in 'abc' }}",
    "{{ messages[-1].content }}{{ messages[:-1] | length }}{{ messages[::-1][0].role }}{{ messages[1:][0]['role'] }}",
    "{% for m in messages %}{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}{% endfor %}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.role }}{% if loop.index == 3 %}"
    "{% break %}{% endif %}{% endfor %}",
    "{{ '-' * 5 }}{{ 'ab' ~ 3 ~ 'c' }}{{ 'x' + 'y' }}",
    "{{ 'some text'.title() }} {{ 'a,b,,c'.split(',') | length }} {{ 'a b  c'.split() | join('|') }}"
    " {{ 'x'.upper() }} {{ 'abcabc'.replace('b', '') }} {{ 'abc'.find('c') }} {{ 'l1\nl2'.splitlines() | last }}",
    "{{ ' a '.strip() }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'abc'.startswith('ab') }}",
    "{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list "
    "| length }} {{ (messages | rejectattr('role', 'equalto', 'user') | list)[0].content }}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}>{{ m.role }}>{{ loop.revindex0 }}"
    "{{ ' last ' if loop.last }}{{ loop.length }}{% endfor %}",
    "a  {#- dropped -#}  b\n   {% if true %}\n   kept\n   {% endif %}\nc\n{%- if true -%}\n  d  {%- endif %}\n",
    "{% set block %}in {{ bos_token }}{% endset %}{{ block | upper }}{% filter lower %}LOUD{% endfilter %}",
    "{{ {'a': 1, 'b': [1.5, none, true], 'c': {'d': 'ä<\"&>\\'/'}} | tojson }}",
    "{{ messages | tojson(indent=2) }}{{ [] | tojson }}{{ {} | tojson }}",
    "{{ messages is iterable }}{{ messages[0] is mapping }}{{ 'a' is string }}{{ 1 is number }}{{ none is none }}"
    "{{ missing is defined }}{{ messages is sequence }}{{ true is boolean }}{{ 4 is even }}{{ 9 is divisibleby 3 }}",
    "{% set ns = namespace(found=[], n=0) %}{% for m in messages %}{% set ns.n = ns.n + 2 %}"
    "{% set ns.found = ns.found + [m.role] %}{% endfor %}{{ ns.n }}{{ ns.found | join }}",
    "{{ 7 / 2 }} {{ 4 / 2 }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 3 }} {{ 1.5 + 1 }} {{ -3 | abs }}",
    "{{ 'yes' if messages else 'no' }}{{ 'nothing' if false }}{{ '' or 'other' }}{{ 'a' and 'b' }}{{ not messages }}",
    "{{ missing | default('d') }}{{ '' | default('e', true) }}{{ messages | first | length }}{{ 'hello' | capitalize }}"
    "{{ 'ab' | reverse }}{{ [3, 1, 2] | sort | join }}{{ [1, 1, 2] | unique | list | length }}{{ 'a b' | title }}",
    "{% macro show(role, mark='*', end='.') %}{{ mark }}{{ role }}{{ end }}{% endmacro %}"
    "{{ show('x') }}{{ show('y', end='!') }}{{ show('z', '#') }}",
    "{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}",
    "{% for i in range(2) %}{{ i }}{% endfor %}{% for i in range(4, 0, -2) %}{{ i }}{% endfor %}",
    "{{ 'abc'[0] }}{{ 'abc'[1:] }}{{ 'abc'[-1] }}{{ messages[0].content[:3] }}",
    "{{ messages[0].get('content') }}{{ messages[0].get('name', 'nobody') }}{{ messages[0].get('name') is none }}",
    "{{ strftime_now('%d %B %Y') }}{% if strftime_now is defined %}!{% endif %}{{ tools }}{{ documents is none }}",
    "{% for key, value in {'b': 2, 'a': 1} | dictsort %}{{ key }}{{ value }}{% endfor %}"
    "{% for key, value in {'b': 2, 'a': 1} | items %}{{ key }}{{ value }}{% endfor %}",
    "{{ bos_token }}{{ eos_token }}{{ unk_token is defined }}{{ add_generation_prompt }}{{ messages[0]['role'] != 'user' }}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content | trim }}{% else %}none{% endfor %}",
    "{{ 'line one\nline two' | indent(2) }}{{ 'line one\nline two' | indent(4, first=true) }}{{ ' t ' | trim }}",
    "{%- set a, b = 1, 2 -%}{{ a }}{{ b }}{% with c = 3 %}{{ c }}{% endwith %}{% raw %}{{ raw }}{% endraw %}",
    "{{ messages | length > 2 and messages[1].role == 'assistant' }}{{ [1, 2] + [3] }}{{ 'it\\'s' }}{{ ['it\\'s', none] }}",
    "{{ messages[0] }}{{ (1, 'two') }}{{ {'a': true} | string }}{{ 3 | string + 'x' }}{{ '5' | int + 1 }}{{ 2.0 }}",
    "a{% generation %}b{{ eos_token }}{% endgeneration %}c",
    "{{ messages | map(attribute='content') | map('length') | sum }}{{ [1, 5, 3] | max }}{{ messages | batch(2) | list | length }}",
]
CONVERSATIONS = [
    [{"role": "user", "content": "What?  "}],
    [{"role": "system", "content": "Be <brief> & \"kind\"."}, {"role": "user", "content": "ä\nb"},
     {"role": "assistant", "content": "c"}, {"role": "user", "content": "d's"}],
]


class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


chat_template_utils.datetime = Fixed
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>")
cases = []
for template in TEMPLATES:
    for messages in CONVERSATIONS:
        try:
            text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False,
                                                 add_generation_prompt=True)
        except Exception as error:
            print("not rendered:", template, repr(error))
            text = None
        cases.append({"template": template, "messages": messages, "text": text})
Path(__file__).with_name("expected.json").write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n")
