"""The official Python client against a running server.

Usage: contract.py BASE_URL   (models: `story`, by diffusion, and `parent`, token by token)
"""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, timeout=60)
PROMPT = "Once upon a time"


def chat(**more):
    messages = [{"role": "user", "content": PROMPT}]
    return client.chat.completions.create(
        **{"model": "story", "messages": messages, "max_tokens": 24, **more}
    )


names = [model.id for model in client.models.list()]
assert names == ["story", "parent"], names
assert client.models.retrieve("story").id == "story"

whole = chat()
text = whole.choices[0].message.content
assert text and whole.choices[0].finish_reason == "length", whole
assert whole.usage.completion_tokens == 24, whole.usage
assert whole.usage.total_tokens == whole.usage.prompt_tokens + 24
assert whole.choices[0].dllm["tokens"] == 24

chunks = list(chat(stream=True, stream_options={"include_usage": True}))
pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
assert "".join(pieces) == text, (pieces, text)
assert chunks[-1].usage.completion_tokens == 24 and not chunks[-1].choices

seeded = [chat(n=2, seed=5, temperature=0.9, top_p=0.9) for _ in range(2)]
first, second = ([choice.message.content for choice in answer.choices] for answer in seeded)
assert first == second and first[0] != first[1], (first, second)

logprobs = chat(logprobs=True, top_logprobs=4).choices[0].logprobs.content
assert len(logprobs) == 24 and all(token.logprob <= 0 for token in logprobs)
assert all(len(token.top_logprobs) == 4 for token in logprobs)
assert all(token.top_logprobs[0].token == token.token for token in logprobs)

stop = text[5:8]
assert chat(stop=[stop]).choices[0].message.content == text[: text.index(stop)]

eager = chat(extra_body={"threshold": 0.3, "block_length": 8, "return_steps": True})
assert len(eager.choices[0].dllm["placed"]) == 24

completion = client.completions.create(model="parent", prompt=PROMPT, max_tokens=8, logprobs=2)
assert len(completion.choices[0].logprobs.tokens) == 8
assert all(1 <= len(top) <= 2 for top in completion.choices[0].logprobs.top_logprobs)

with client.chat.completions.with_streaming_response.create(
    model="story", messages=[{"role": "user", "content": PROMPT}], stream=True
) as response:
    next(response.iter_lines())  # and go away in the middle


def refused(error, **more):
    try:
        chat(**more)
    except error as refusal:
        return refusal
    raise AssertionError(f"not refused: {more}")


assert refused(openai.BadRequestError, top_p=7).param == "top_p"
assert refused(openai.BadRequestError, extra_body={"best_of": 3}).param == "best_of"
tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
assert refused(openai.BadRequestError, tools=[tool]).param == "tools"
assert refused(openai.NotFoundError, model="none").code == "model_not_found"
print("contract kept")
