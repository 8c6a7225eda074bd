"""Writes expected.json: what Python's jinja2, set up as Hugging Face's transformers sets it up, makes of each template
and case. Run once with jinja2 installed; the Rust test compares with the committed file."""
import datetime
import json
import pathlib

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent


class Complaint(Exception):
    pass


class Generation(jinja2.ext.Extension):
    """transformers' marker of the assistant's text: no effect on the text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise Complaint(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


env = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
now = datetime.datetime.fromtimestamp(1795465820, datetime.timezone.utc)
env.globals["strftime_now"] = now.strftime

expected = {}
for path in sorted(HERE.glob("*.jinja")):
    template = env.from_string(path.read_text())
    for case in json.loads((HERE / "cases.json").read_text()):
        messages = case["messages"]
        if path.stem == "parts":
            messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        variables = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, **case.get("args", {})}
        if "add_generation_prompt" in case:
            variables["add_generation_prompt"] = case["add_generation_prompt"]
        try:
            answer = {"text": template.render(messages=messages, **variables)}
        except Complaint as complaint:
            answer = {"refused": str(complaint)}
        expected[f"{path.stem}/{case['name']}"] = answer
(HERE / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
