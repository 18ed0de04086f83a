"""What goes into a request: which parameters are echoed, and which reach the provider."""

from functools import partial
from typing import Any

from tests.sdk.python.errors import refusal
from tests.sdk.python.responses import poll, submit
from tests.sdk.python.user import MODEL, Facts, Json, User, scenario

WEATHER: Json = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
TOOLS: list[Json] = [
    WEATHER,
    {"type": "web_search_preview", "search_context_size": "low"},
    {"type": "mcp", "server_label": "shop", "server_url": "https://shop.example/mcp", "require_approval": "never"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "image_generation"},
    {"type": "custom", "name": "grep"},
]
TOOL_CHOICES: list[Any] = [
    "none",
    "auto",
    "required",
    {"type": "function", "name": "weather"},
    {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
    {"type": "custom", "name": "grep"},
    {"type": "mcp", "server_label": "shop"},
    {"type": "web_search_preview"},
    {"type": "file_search"},
    {"type": "code_interpreter"},
    {"type": "image_generation"},
]
PARAMETERS: Json = {
    "include": ["reasoning.encrypted_content"],
    "instructions": "Be brief.",
    "max_output_tokens": 1000,
    "max_tool_calls": 3,
    "metadata": {"ticket": "4711"},
    "parallel_tool_calls": False,
    "prompt_cache_key": "cache",
    "reasoning": {"effort": "low", "summary": "auto"},
    "safety_identifier": "somebody",
    "service_tier": "default",
    "store": True,
    "temperature": 0.5,
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "tool_choice": "auto",
    "tools": [WEATHER],
    "top_logprobs": 2,
    "top_p": 0.9,
    "truncation": "auto",
    "user": "somebody",
}
NEWER: Json = {
    "access_programs": {},
    "context_management": [{"type": "compaction", "compact_threshold": 1000}],
    "background_options": {"completion_window": "soonest"},
    "image": {"context_compression": "auto"},
    "moderation": {"model": "omni-moderation-latest"},
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
}


def common(given: Json, found: Json) -> Json:
    """Of `given`, what differs in `found`: nothing, where all was kept."""
    return {name: found.get(name, "(absent)") for name, value in given.items() if found.get(name, "(absent)") != value}


@scenario
def parameters(user: User) -> Facts:
    prompt = user.prompt()
    response = poll(user, user.client().responses.create(model=MODEL, input=prompt, background=True, **PARAMETERS))
    [sent] = user.sent(response)
    return {
        "echoed_otherwise": common(PARAMETERS, response.to_dict()),
        "sent_otherwise": common({"model": MODEL, "input": prompt, **PARAMETERS}, sent),
        "sent_too": sorted(set(sent) - {"model", "input", *PARAMETERS}),
    }


@scenario
def parameters_of_newer_sdks(user: User) -> Facts:
    response = poll(user, submit(user, extra_body=NEWER))
    [sent] = user.sent(response)
    return {"status": response.status, "sent": sorted(set(sent) & set(NEWER))}


@scenario
def parameters_without_effect(user: User) -> Facts:
    client = user.client()
    options: Any = {"include_obfuscation": True}
    events: list[Any] = list(
        client.responses.create(model=MODEL, input=user.prompt(), stream=True, stream_options=options)
    )
    final = events[-1].response
    again = client.responses.retrieve(final.id, include=["reasoning.encrypted_content"], include_obfuscation=True)
    items = list(client.responses.input_items.list(final.id, include=["message.input_image.image_url"]))
    [sent] = user.sent(final)
    return {
        "sent": "stream_options" in sent,
        "obfuscated": any("obfuscation" in event.to_dict() for event in events),
        "text": again.output_text,
        "items": len(items),
    }


@scenario
def parameters_nobody_knows(user: User) -> Facts:
    response = poll(user, submit(user, extra_body={"mood_of_the_model": "cheerful"}))
    [sent] = user.sent(response)
    return {"status": response.status, "sent": sent["mood_of_the_model"]}


@scenario
def parameters_of_ours(user: User) -> Facts:
    body = {"max_attempts": 2, "deadline_seconds": 600, "on_unknown_outcome": "fail", "priority": 7}
    response = poll(user, submit(user, extra_body=body))
    [sent] = user.sent(response)
    assert response.model_extra is not None
    return {
        "max_attempts": response.model_extra["backburner"]["max_attempts"],
        "sent": sorted(set(sent) & set(body)),
    }


@scenario
def stored_prompt(user: User) -> Facts:
    prompt: Any = {"id": "pmpt_1", "version": "2", "variables": {"name": "Ada"}}
    response = poll(user, submit(user, prompt=prompt))
    [sent] = user.sent(response)
    return {"sent": sent["prompt"]}


@scenario
def tools_of_every_kind(user: User) -> Facts:
    response = poll(user, submit(user, tools=TOOLS))
    [sent] = user.sent(response)
    return {"echoed": response.to_dict()["tools"] == TOOLS, "sent": sent["tools"] == TOOLS}


@scenario
def tool_choices(user: User) -> Facts:
    lost = []
    submitted = [submit(user, tools=TOOLS, tool_choice=choice) for choice in TOOL_CHOICES]
    for choice, response in zip(TOOL_CHOICES, submitted, strict=True):
        done = poll(user, response)
        [sent] = user.sent(done)
        if not done.to_dict()["tool_choice"] == choice == sent["tool_choice"]:
            lost.append(choice)
    return {"lost": lost}


@scenario
def images_and_files(user: User) -> Facts:
    parts: list[Json] = [
        {"type": "input_text", "text": user.prompt("full text=Seen.")},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
        {"type": "input_file", "file_id": "file_1"},
    ]
    message: Any = {"role": "user", "content": parts}
    response = poll(user, user.client().responses.create(model=MODEL, input=[message], background=True))
    [sent] = user.sent(response)
    return {"text": response.output_text, "sent": sent["input"][0]["content"] == parts}


@scenario
def wrong_parameters(user: User) -> Facts:
    wrong: dict[str, Json] = {
        "metadata": {"metadata": dict.fromkeys(map(str, range(17)), "x")},
        "reasoning": {"reasoning": {"effort": 5}},
        "text": {"text": {"format": {"type": 5}}},
        "tools": {"tools": [{"type": 5}]},
        "tool_choice": {"tool_choice": 5},
        "truncation": {"truncation": "sometimes"},
        "include": {"include": [5]},
        "max_output_tokens": {"max_output_tokens": 15},
    }
    create = partial(user.client().responses.create, model=MODEL, input="x")
    refusals = {name: refusal(partial(create, extra_body=body)) for name, body in wrong.items()}
    return {name: [each.get("class"), each.get("param")] for name, each in refusals.items()}
