"""Drives an OpenAI-compatible endpoint with the official client. Usage: openai_client.py BASE_URL (with /v1)."""
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=60)
model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model
chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say something."}]
done = 0


def check(name, holds):
    global done
    assert holds, name
    done += 1
    print("ok", name)


def refuses(kind, status, words, **arguments):
    """The call fails with this exception, status and text."""
    try:
        client.chat.completions.create(**{"model": model, "messages": chat, "max_tokens": 4, **arguments})
    except kind as error:
        check(f"{status} {words}", error.status_code == status and words.lower() in str(error).lower())
    else:
        raise AssertionError(f"{arguments} was taken")


answer = client.chat.completions.create(model=model, messages=chat, max_tokens=12)
check("unary text", len(answer.choices[0].message.content) > 0 and answer.choices[0].finish_reason == "length")
check("unary usage", answer.usage.completion_tokens == 12 and answer.usage.total_tokens == answer.usage.prompt_tokens + 12)

chunks = list(client.chat.completions.create(
    model=model, messages=chat, max_tokens=12, stream=True, stream_options={"include_usage": True}))
text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
check("streamed text equals unary text", text == answer.choices[0].message.content)
check("streamed usage", chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12)
check("one finish reason", [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"])

several = client.chat.completions.create(model=model, messages=chat, max_tokens=6, n=3, seed=7)
check("n answers", sorted(c.index for c in several.choices) == [0, 1, 2] and several.usage.completion_tokens == 18)

stop = text[4:6]
stopped = client.chat.completions.create(model=model, messages=chat, max_tokens=12, stop=[stop])
check("stop string", stopped.choices[0].message.content == text[: text.index(stop)] and stopped.choices[0].finish_reason == "stop")

logprobs = client.chat.completions.create(model=model, messages=chat, max_tokens=3, logprobs=True, top_logprobs=2)
content = logprobs.choices[0].logprobs.content
check("logprobs", len(content) == 3 and all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in content))

completion = client.completions.create(model=model, prompt="Once upon", max_tokens=5)
check("completion", len(completion.choices[0].text) > 0 and completion.usage.completion_tokens == 5)
pieces = list(client.completions.create(model=model, prompt="Once upon", max_tokens=5, stream=True))
check("streamed completion", "".join(p.choices[0].text for p in pieces if p.choices) == completion.choices[0].text)
batch = client.completions.create(model=model, prompt=["Once", "Twice"], max_tokens=3)
check("batch of prompts", [c.index for c in batch.choices] == [0, 1])

refuses(openai.NotFoundError, 404, "nosuch", model="nosuch")
refuses(openai.BadRequestError, 400, "temperature", temperature=9)
refuses(openai.BadRequestError, 400, "max", max_tokens=0)
refuses(openai.BadRequestError, 400, "top_p", top_p=2)
refuses(openai.BadRequestError, 400, "frobnicate", extra_body={"frobnicate": 1})
refuses(openai.BadRequestError, 400, "tools", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
refuses(openai.BadRequestError, 400, "context", messages=[{"role": "user", "content": "x" * 200_000}])

try:
    client.with_options(timeout=0.2).chat.completions.create(model=model, messages=chat, max_tokens=20000)
    raise AssertionError("a timeout was expected")
except openai.APITimeoutError:
    check("timeout of the client", True)

stream = client.chat.completions.create(model=model, messages=chat, max_tokens=20000, stream=True)
next(iter(stream))
stream.close()
after = client.chat.completions.create(model=model, messages=chat, max_tokens=4)
check("cancel in mid-stream leaves the service whole", after.usage.completion_tokens == 4)
print(f"all checks passed: {done}")
