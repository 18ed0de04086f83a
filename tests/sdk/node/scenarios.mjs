// The scenarios of tests/sdk/python, as a user of the Node SDK writes them. Each returns the same facts.

import { createHmac } from "node:crypto";
import { once } from "node:events";
import { get } from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { InvalidWebhookSignatureError } from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { CursorPage } from "openai/pagination";
import { z } from "zod";
import { MODEL, PAUSE, collect, farAway, outcomeOf } from "./user.mjs";

const NOBODYS = "resp_00000000000000000000000000000000";
const SLOWLY = "full text=abcdefghijklmnopqrstuvwxyz chunk=2 every=0.05";
const OSLO = String.raw`tool-call name=weather arguments="{\"city\": \"Oslo\"}"`;
const WEATHER = {
  type: "function",
  name: "weather",
  description: "The weather of a city.",
  parameters: {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
    additionalProperties: false,
  },
  strict: true,
};
const TOOLS = [
  WEATHER,
  { type: "web_search_preview", search_context_size: "low" },
  { type: "mcp", server_label: "shop", server_url: "https://shop.example/mcp", require_approval: "never" },
  { type: "file_search", vector_store_ids: ["vs_1"] },
  { type: "code_interpreter", container: { type: "auto" } },
  { type: "image_generation" },
  { type: "custom", name: "grep" },
];
const TOOL_CHOICES = [
  "none",
  "auto",
  "required",
  { type: "function", name: "weather" },
  { type: "allowed_tools", mode: "auto", tools: [{ type: "function", name: "weather" }] },
  { type: "custom", name: "grep" },
  { type: "mcp", server_label: "shop" },
  { type: "web_search_preview" },
  { type: "file_search" },
  { type: "code_interpreter" },
  { type: "image_generation" },
];
const PARAMETERS = {
  include: ["reasoning.encrypted_content"],
  instructions: "Be brief.",
  max_output_tokens: 1000,
  max_tool_calls: 3,
  metadata: { ticket: "4711" },
  parallel_tool_calls: false,
  prompt_cache_key: "cache",
  reasoning: { effort: "low", summary: "auto" },
  safety_identifier: "somebody",
  service_tier: "default",
  store: true,
  temperature: 0.5,
  text: { format: { type: "text" }, verbosity: "low" },
  tool_choice: "auto",
  tools: [WEATHER],
  top_logprobs: 2,
  top_p: 0.9,
  truncation: "auto",
  user: "somebody",
};
const NEWER = {
  access_programs: {},
  context_management: [{ type: "compaction", compact_threshold: 1000 }],
  background_options: { completion_window: "soonest" },
  image: { context_compression: "auto" },
  moderation: { model: "omni-moderation-latest" },
  prompt_cache_options: { mode: "explicit" },
  prompt_cache_retention: "24h",
};

const ENDS = { completed: "full", incomplete: "incomplete", failed: "400-value", cancelled: "full delay=60" };
const EVENTS = Object.keys(ENDS).map((end) => `response.${end}`);
const OTHER_SECRET = `whsec_${Buffer.alloc(32, "o").toString("base64")}`;
const MINUTE = 60;

// The kind of event that `unwrap` finds, or the name of its refusal.
async function verdict(user, came, secret) {
  try {
    return (await user.client().webhooks.unwrap(came.body, came.headers, secret)).type;
  } catch (error) {
    if (!(error instanceof InvalidWebhookSignatureError)) throw error;
    return "InvalidWebhookSignatureError";
  }
}

// The same webhook as it would have been signed at `moment`.
function signed(came, secret, moment) {
  const timestamp = String(Math.floor(moment));
  const key = Buffer.from(secret.replace("whsec_", ""), "base64");
  const content = `${came.headers["webhook-id"]}.${timestamp}.${came.body}`;
  const signature = `v1,${createHmac("sha256", key).update(content).digest("base64")}`;
  const headers = { ...came.headers, "webhook-timestamp": timestamp, "webhook-signature": signature };
  return { ...came, headers };
}

// Of `given`, what differs in `found`: nothing, where all was kept.
function common(given, found) {
  const differing = Object.keys(given).filter((name) => !isDeepStrictEqual(given[name], found[name]));
  return Object.fromEntries(differing.map((name) => [name, name in found ? found[name] : "(absent)"]));
}

const overlap = (sent, body) => Object.keys(body).filter((name) => name in sent).sort();

// Who said what in a body that went to the provider, directives left out.
function said(sent) {
  return sent.input.map((item) => {
    const content = item.content ?? item.output ?? item.arguments ?? "";
    const text = typeof content === "string" ? content : content.map((part) => part.text).join("");
    return [item.role ?? item.type, text.split("]] ").at(-1)];
  });
}

async function streamed(user, directive, body = {}) {
  return await collect(
    await user.client().responses.create({ model: MODEL, input: user.prompt(directive), stream: true, ...body }),
  );
}

// A client whose first try of every request meets `mischief` on its way.
const through = (user, mischief, options = {}) =>
  user.client({ baseURL: `${user.lossy_url}/${mischief}/v1`, ...options });

// Ours, for the SDK has no method for it: the responses of this scenario, a page.
const listed = (user, query = {}) =>
  user.client().getAPIList("/responses", CursorPage, { query: { "metadata[scenario]": user.scenario, ...query } });

// What makes the worker send fewer calls for everybody. It goes last, when nobody else is kept waiting by it.
export const busy = {
  async provider_is_busy(user) {
    const failing = (directive) => (client) =>
      client.responses.create({ model: MODEL, input: user.prompt(directive), max_attempts: 1, deadline_seconds: 2 });
    return { "too many requests": await user.refusal(failing("429")), overloaded: await user.refusal(failing("503")) };
  },
};

export const scenarios = {
  // --- what takes longer than clients and proxies wait in silence; these go first, the others run meanwhile

  async held_longer_than_the_read_timeout(user) {
    // this SDK's timeout is for the whole answer: nothing that a server does can extend it
    const prompt = user.prompt("full text=Late. delay=25");
    const { data, response } = await user.client().responses.create({ model: MODEL, input: prompt }).withResponse();
    return {
      text: data.output_text,
      id_in_the_headers: response.headers.get("openai-response-id") === data.id,
      billed_calls: await user.billedCalls(prompt),
    };
  },

  async failed_after_the_headers(user) {
    const input = user.prompt("400-value delay=21");
    const response = await user.client().responses.create({ model: MODEL, input });
    return { status: response.status, code: response.error.code };
  },

  async connection_cut_after_the_headers(user) {
    const prompt = user.prompt("full text=Kept. delay=24");
    let text;
    try {
      text = (await through(user, "cut-late").responses.create({ model: MODEL, input: prompt })).output_text;
    } catch (error) {
      text = error.constructor.name;
    }
    while ((await user.billedCalls(prompt)) === 0) await pause(PAUSE);
    return { text, billed_calls: await user.billedCalls(prompt) };
  },

  async wire_of_a_quiet_stream(user) {
    const raw = await user
      .client()
      .responses.create({ model: MODEL, input: user.prompt("full text=Wire. delay=18"), stream: true })
      .asResponse();
    const text = await raw.text();
    const lines = text.split("\n").filter(Boolean);
    return {
      content_type: raw.headers.get("content-type").split(";")[0],
      request_id: raw.headers.get("x-request-id").slice(0, 4),
      fields: [...new Set(lines.map((line) => line.split(":")[0]))].sort(),
      ends_with_a_blank_line: text.endsWith("\n\n"),
    };
  },

  // --- the life of a response

  async background_and_poll(user) {
    const client = user.client();
    const prompt = user.prompt('full text="Forty-two." reasoning-tokens=64 delay=0.3');
    const submitted = await client.responses.create({
      model: MODEL,
      input: prompt,
      background: true,
      metadata: { ticket: "4711" },
    });
    let response = submitted;
    while (response.status === "queued" || response.status === "in_progress") {
      await pause(PAUSE);
      response = await client.responses.retrieve(response.id);
    }
    return {
      submitted: [submitted.status, submitted.background, submitted.output_text],
      same_id: submitted.id === response.id,
      status: response.status,
      text: response.output_text,
      model: response.model,
      metadata: response.metadata,
      reasoning_tokens: response.usage.output_tokens_details.reasoning_tokens,
      request_id: response._request_id.slice(0, 4),
      billed_calls: await user.billedCalls(prompt),
    };
  },

  async held_create(user) {
    const prompt = user.prompt("full text=Held.");
    const response = await user.client().responses.create({ model: MODEL, input: prompt });
    return {
      status: response.status,
      background: response.background,
      text: response.output_text,
      billed_calls: await user.billedCalls(prompt),
    };
  },

  async waiting_in_the_queue(user) {
    const submitted = await user.submit(undefined, { run_at: farAway() });
    const response = await user.client().responses.retrieve(submitted.id);
    await user.client().responses.cancel(submitted.id);
    return {
      status: response.status,
      output: response.output,
      text: response.output_text,
      error: response.error,
      usage: response.usage,
    };
  },

  async odd_answers(user) {
    const oddities = ["sample-1", "sample-2", "output-null text=Odd.", "no-status text=Odd.", "in-progress-item text=Odd."];
    const facts = {};
    for (const oddity of oddities) {
      const done = await user.run(oddity);
      const items = done.output.filter((item) => item.type === "message").map((item) => item.status);
      facts[oddity.split(" ")[0]] = [done.status, done.output_text, items];
    }
    return facts;
  },

  async items_of_unknown_types(user) {
    const done = await user.run("unknown-items text=New.");
    return { text: done.output_text, types: done.output.map((item) => item.type) };
  },

  async refusal_of_the_model(user) {
    const done = await user.run("refusal text=No.");
    const [message] = done.output.filter((item) => item.type === "message");
    return { status: done.status, text: done.output_text, parts: message.content.map((part) => part.type) };
  },

  async incomplete_answer(user) {
    const done = await user.run("incomplete text=Once");
    return { status: done.status, text: done.output_text, reason: done.incomplete_details.reason };
  },

  async failed_response(user) {
    const done = await user.run("failed code=server_error", { max_attempts: 1 });
    return { status: done.status, code: done.error.code, message: Boolean(done.error.message) };
  },

  async failed_response_with_a_code_of_ours(user) {
    const done = await user.run("overflow");
    return { status: done.status, code: done.error.code, message: Boolean(done.error.message) };
  },

  async cancel_twice(user) {
    const client = user.client();
    const submitted = await user.submit("full delay=60");
    const first = await client.responses.cancel(submitted.id);
    const second = await client.responses.cancel(submitted.id);
    const third = await client.responses.retrieve(submitted.id);
    return { statuses: [first.status, second.status, third.status], output: second.output };
  },

  async cancel_when_finished(user) {
    const done = await user.run("full text=Finished.");
    const again = await user.client().responses.cancel(done.id);
    return { status: again.status, output: again.output.map((item) => item.type) };
  },

  async delete(user) {
    const done = await user.run(undefined, { metadata: { scenario: user.scenario } });
    const before = await collect(listed(user));
    await user.client().responses.delete(done.id);
    const after = await collect(listed(user));
    return { before: before.length === 1 && before[0].id === done.id, after: after.map((each) => each.id) };
  },

  async pages_of_responses(user) {
    const client = user.client();
    const ids = [];
    for (let count = 0; count < 5; count += 1) {
      const metadata = { scenario: user.scenario };
      ids.push((await user.submit(undefined, { metadata, run_at: farAway() })).id);
    }
    const first = await listed(user, { limit: 2 });
    const found = (await collect(first)).map((each) => each.id);
    for (const id of ids) await client.responses.cancel(id);
    return {
      first: first.data.length,
      more: first.has_more,
      newest_first: isDeepStrictEqual(found, ids.toReversed()),
    };
  },

  async models(user) {
    const client = user.client();
    const listed = (await collect(client.models.list())).map((each) => each.id);
    const model = await client.models.retrieve(MODEL);
    return { listed, id: model.id, owner: model.owned_by, object: model.object };
  },

  async raw_response(user) {
    const client = user.client();
    const submitted = await user.submit(undefined, { run_at: farAway() });
    const { data, response, request_id } = await client.responses.retrieve(submitted.id).withResponse();
    await client.responses.cancel(submitted.id);
    const retryAfter = Number(response.headers.get("retry-after"));
    return {
      content_type: response.headers.get("content-type"),
      request_id: request_id === response.headers.get("x-request-id") && request_id === data._request_id,
      etag: Boolean(response.headers.get("etag")),
      retry_after: retryAfter > 0 && retryAfter <= 60,
      status: data.status,
    };
  },

  async what_it_gives_can_be_given_back(user) {
    const done = await user.run("full text=Again.");
    const again = JSON.parse(JSON.stringify(done));
    return { text: again.output_text, same: isDeepStrictEqual({ ...again }, { ...done }) };
  },

  async asynchronous_client(user) {
    const client = user.client();
    const done = await user.run("full text=One.");
    const held = await Promise.all(
      [0, 1, 2].map((n) => client.responses.create({ model: MODEL, input: user.prompt(`full text=${n}`) })),
    );
    const events = await streamed(user, "full text=Streamed.");
    return { text: done.output_text, held: held.map((each) => each.output_text), streamed: outcomeOf(events).text };
  },

  // --- what goes into a request

  async parameters(user) {
    const prompt = user.prompt();
    const response = await user.run(undefined, PARAMETERS);
    const [sent] = await user.sent(response);
    const asked = { model: MODEL, input: prompt, ...PARAMETERS };
    return {
      echoed_otherwise: common(PARAMETERS, response),
      sent_otherwise: common(asked, sent),
      sent_too: Object.keys(sent).filter((name) => !(name in asked)).sort(),
    };
  },

  async parameters_of_newer_sdks(user) {
    const response = await user.run(undefined, NEWER);
    const [sent] = await user.sent(response);
    return { status: response.status, sent: overlap(sent, NEWER) };
  },

  async parameters_without_effect(user) {
    const client = user.client();
    const events = await streamed(user, undefined, { stream_options: { include_obfuscation: true } });
    const { id } = events.at(-1).response;
    const query = { include: ["reasoning.encrypted_content"], include_obfuscation: true };
    const again = await client.responses.retrieve(id, query);
    const items = await collect(
      client.responses.inputItems.list(id, { include: ["message.input_image.image_url"] }),
    );
    const [sent] = await user.sent(again);
    return {
      sent: "stream_options" in sent,
      obfuscated: events.some((event) => "obfuscation" in event),
      text: again.output_text,
      items: items.length,
    };
  },

  async parameters_nobody_knows(user) {
    const response = await user.run(undefined, { mood_of_the_model: "cheerful" });
    const [sent] = await user.sent(response);
    return { status: response.status, sent: sent.mood_of_the_model };
  },

  async parameters_of_ours(user) {
    const body = { max_attempts: 2, deadline_seconds: 600, on_unknown_outcome: "fail", priority: 7 };
    const response = await user.run(undefined, body);
    const [sent] = await user.sent(response);
    return { max_attempts: response.backburner.max_attempts, sent: overlap(sent, body) };
  },

  async stored_prompt(user) {
    const prompt = { id: "pmpt_1", version: "2", variables: { name: "Ada" } };
    const response = await user.run(undefined, { prompt });
    const [sent] = await user.sent(response);
    return { sent: sent.prompt };
  },

  async tools_of_every_kind(user) {
    const response = await user.run(undefined, { tools: TOOLS });
    const [sent] = await user.sent(response);
    return { echoed: isDeepStrictEqual(response.tools, TOOLS), sent: isDeepStrictEqual(sent.tools, TOOLS) };
  },

  async tool_choices(user) {
    const lost = [];
    for (const choice of TOOL_CHOICES) {
      const done = await user.run(undefined, { tools: TOOLS, tool_choice: choice });
      const [sent] = await user.sent(done);
      if (!isDeepStrictEqual([done.tool_choice, sent.tool_choice], [choice, choice])) lost.push(choice);
    }
    return { lost };
  },

  async images_and_files(user) {
    const content = [
      { type: "input_text", text: user.prompt("full text=Seen.") },
      { type: "input_image", image_url: "data:image/png;base64,iVBORw0KGgo=", detail: "low" },
      { type: "input_file", filename: "a.pdf", file_data: "data:application/pdf;base64,JVBERi0=" },
      { type: "input_file", file_id: "file_1" },
    ];
    const response = await user.run(undefined, { input: [{ role: "user", content }] });
    const [sent] = await user.sent(response);
    return { text: response.output_text, sent: isDeepStrictEqual(sent.input[0].content, content) };
  },

  async wrong_parameters(user) {
    const wrong = {
      metadata: { metadata: Object.fromEntries([...Array(17).keys()].map((key) => [String(key), "x"])) },
      reasoning: { reasoning: { effort: 5 } },
      text: { text: { format: { type: 5 } } },
      tools: { tools: [{ type: 5 }] },
      tool_choice: { tool_choice: 5 },
      truncation: { truncation: "sometimes" },
      include: { include: [5] },
      max_output_tokens: { max_output_tokens: 15 },
    };
    const facts = {};
    for (const [name, body] of Object.entries(wrong)) {
      const refused = await user.refusal((client) => client.responses.create({ model: MODEL, input: "x", ...body }));
      facts[name] = [refused.class, refused.param];
    }
    return facts;
  },

  // --- refusals

  async error_classes(user) {
    const reader = { apiKey: user.reader_key };
    const waiting = await user.submit(undefined, { run_at: farAway() });
    const create = (body) => (client) => client.responses.create({ model: MODEL, input: "x", ...body });
    const failing = (directive, body = {}) => create({ input: user.prompt(directive), ...body });
    const acts = {
      "bad value": [create({ max_output_tokens: 3 })],
      "no input": [create({ input: undefined })],
      "wrong type": [create({ background: 1 })],
      "bad key": [(client) => client.models.list(), { apiKey: "bb_wrong" }],
      "no scope": [create({}), reader],
      "unknown id": [(client) => client.responses.retrieve(NOBODYS)],
      "somebody else's": [(client) => client.responses.retrieve(waiting.id), reader],
      "unknown model": [(client) => client.models.retrieve("gpt-17")],
      "unknown path": [(client) => client.get("/nowhere")],
      "too large": [create({ input: "x".repeat(400_000) })],
      "provider refuses": [failing("400-value")],
      "context overflow": [failing("overflow")],
      "provider breaks": [failing("500", { on_unknown_outcome: "fail" })],
      "provider is away": [failing("504", { max_attempts: 1 })],
      "answer is empty": [failing("empty")],
      deadline: [failing("half-open", { deadline_seconds: 4 })],
    };
    const facts = {};
    for (const [name, [act, options]] of Object.entries(acts)) facts[name] = await user.refusal(act, options);
    await user.client().responses.cancel(waiting.id);
    return facts;
  },

  async deleted_response(user) {
    const submitted = await user.submit(undefined, { run_at: farAway() });
    await user.client().responses.delete(submitted.id);
    return {
      retrieve: await user.refusal((client) => client.responses.retrieve(submitted.id)),
      cancel: await user.refusal((client) => client.responses.cancel(submitted.id)),
      delete: await user.refusal((client) => client.responses.delete(submitted.id)),
    };
  },

  async cancel_without_background(user) {
    const done = await user.client().responses.create({ model: MODEL, input: user.prompt() });
    return await user.refusal((client) => client.responses.cancel(done.id));
  },

  async conversation_is_refused(user) {
    return {
      create: await user.refusal((client) =>
        client.responses.create({ model: MODEL, input: "x", conversation: "conv_1" }),
      ),
      conversations: await user.refusal((client) => client.conversations.create()),
    };
  },

  async compact_is_refused(user) {
    return await user.refusal((client) => client.responses.compact({ model: MODEL, input: "x" }));
  },

  async models_cannot_be_deleted(user) {
    return await user.refusal((client) => client.models.delete(MODEL));
  },

  async websocket_is_refused(user) {
    const headers = {
      Authorization: `Bearer ${user.api_key}`,
      Connection: "Upgrade",
      Upgrade: "websocket",
      "Sec-WebSocket-Version": "13",
      "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    };
    const [answer] = await once(get(`${user.base_url}/responses`, { headers }), "response");
    answer.resume();
    return { status: answer.statusCode };
  },

  // --- the SDK sends a request again by itself

  async no_idempotency_key_by_itself(user) {
    const prompt = user.prompt();
    const client = user.client();
    const first = await client.responses.create({ model: MODEL, input: prompt });
    const second = await client.responses.create({ model: MODEL, input: prompt }, { idempotencyKey: "not sent" });
    return { ids: new Set([first.id, second.id]).size, billed_calls: await user.billedCalls(prompt) };
  },

  async idempotency_key(user) {
    const prompt = user.prompt();
    const headers = { "Idempotency-Key": `${user.scenario} ${user.name}` };
    const client = user.client();
    const first = await client.responses.create({ model: MODEL, input: prompt }, { headers });
    const second = await client.responses.create({ model: MODEL, input: prompt }, { headers });
    return {
      ids: new Set([first.id, second.id]).size,
      billed_calls: await user.billedCalls(prompt),
      other_body: await user.refusal((other) => other.responses.create({ model: MODEL, input: "x" }, { headers })),
    };
  },

  async answer_later_than_the_timeout(user) {
    // the answer is there amid the second try, far from the moments at which one ends
    const prompt = user.prompt("full text=Late. delay=6", "Without a whisper");
    const response = await through(user, "mute", { timeout: 4000 }).responses.create({ model: MODEL, input: prompt });
    return { text: response.output_text, billed_calls: await user.billedCalls(prompt) };
  },

  async connection_cut_before_the_answer(user) {
    const prompt = user.prompt("full text=Kept. delay=1");
    const response = await through(user, "cut").responses.create({ model: MODEL, input: prompt });
    return { text: response.output_text, billed_calls: await user.billedCalls(prompt) };
  },

  async connection_cut_before_the_submission_is_confirmed(user) {
    const prompt = user.prompt("full text=Kept.");
    const client = through(user, "hang-up");
    const response = await client.responses.create({ model: MODEL, input: prompt, background: true });
    return { text: (await user.poll(response)).output_text, billed_calls: await user.billedCalls(prompt) };
  },

  async bad_gateway_on_the_way(user) {
    const prompt = user.prompt("full text=Kept. delay=1");
    const response = await through(user, "502").responses.create({ model: MODEL, input: prompt });
    return { text: response.output_text, billed_calls: await user.billedCalls(prompt) };
  },

  // --- several turns, tools, structured output, and what went in

  async multi_turn(user) {
    const turn = (words, text, body) =>
      user.client().responses.create({ model: MODEL, input: `[[sim: full text=${text}]] ${words}`, ...body });
    const first = await turn("1?", "One.", { instructions: "Count." });
    const second = await turn("2?", "Two.", { previous_response_id: first.id });
    const third = await turn("3?", "Three.", { previous_response_id: second.id });
    const [sent] = await user.sent(third);
    return {
      text: third.output_text,
      previous: third.previous_response_id === second.id,
      said: said(sent),
      instructions: sent.instructions ?? null,
      sent_previous: "previous_response_id" in sent,
    };
  },

  async multi_turn_by_hand(user) {
    const client = user.client();
    const history = [{ role: "user", content: "[[sim: full text=One.]] 1?" }];
    const first = await client.responses.create({ model: MODEL, input: history });
    history.push(...first.output, { role: "user", content: "[[sim: full text=Two.]] 2?" });
    const second = await client.responses.create({ model: MODEL, input: history });
    const [sent] = await user.sent(second);
    return { text: second.output_text, said: said(sent).filter(([who]) => who !== "reasoning") };
  },

  async follow_up_to_a_running_response(user) {
    const first = await user.submit("full text=Slow. delay=1");
    const second = await user.client().responses.create({
      model: MODEL,
      input: "[[sim: full text=After.]] And?",
      previous_response_id: first.id,
    });
    const [sent] = await user.sent(second);
    return { text: second.output_text, said: said(sent).map(([, text]) => text).slice(1) };
  },

  async follow_up_to_nothing(user) {
    const client = user.client();
    const follow = (previous_response_id) =>
      user.refusal((each) => each.responses.create({ model: MODEL, input: "x", previous_response_id }));
    const deleted = await user.submit(undefined, { run_at: farAway() });
    await client.responses.delete(deleted.id);
    const failed = await user.run("400-value");
    const cancelled = await client.responses.cancel((await user.submit(undefined, { run_at: farAway() })).id);
    return {
      unknown: await follow(NOBODYS),
      deleted: await follow(deleted.id),
      failed: await follow(failed.id),
      cancelled: await follow(cancelled.id),
    };
  },

  async not_stored(user) {
    const client = user.client();
    const done = await client.responses.create({ model: MODEL, input: user.prompt(), store: false });
    return { store: done.store, status: (await client.responses.retrieve(done.id)).status };
  },

  async tool_round_trip(user) {
    const client = user.client();
    const tools = [WEATHER];
    const asked = await client.responses.create({ model: MODEL, input: user.prompt(OSLO, "How is it in Oslo?"), tools });
    const [call] = asked.output.filter((item) => item.type === "function_call");
    const output = { type: "function_call_output", call_id: call.call_id, output: "[[sim: full text=Cold.]] 9" };
    const answered = await client.responses.create({
      model: MODEL,
      previous_response_id: asked.id,
      input: [output],
      tools,
    });
    const sent = (await user.sent(answered))[0].input.filter((item) => item.type !== "reasoning");
    const calls = sent.filter((item) => "call_id" in item);
    return {
      name: call.name,
      arguments: JSON.parse(call.arguments),
      output_text: asked.output_text,
      text: answered.output_text,
      sent: sent.map((item) => item.type ?? "message"),
      same_call: calls.length > 0 && calls.every((item) => item.call_id === call.call_id),
    };
  },

  async tool_round_trip_by_hand(user) {
    const client = user.client();
    const tools = [WEATHER];
    const history = [{ role: "user", content: user.prompt("tool-call", "How is it in Oslo?") }];
    const asked = await client.responses.create({ model: MODEL, input: history, tools });
    history.push(...asked.output);
    for (const { type, call_id } of asked.output) {
      if (type !== "function_call") continue;
      history.push({ type: "function_call_output", call_id, output: "[[sim: full text=Cold.]] 9" });
    }
    const answered = await client.responses.create({ model: MODEL, input: history, tools });
    return { text: answered.output_text };
  },

  async structured_output(user) {
    const City = z.object({ name: z.string(), people: z.number().int(), rivers: z.array(z.string()) });
    const text = JSON.stringify(JSON.stringify({ name: "Oslo", people: 700000, rivers: ["Akerselva"] }));
    const parsed = await user.client().responses.parse({
      model: MODEL,
      input: user.prompt(`json text=${text}`),
      text: { format: zodTextFormat(City, "City") },
    });
    const plain = await user.client().responses.retrieve(parsed.id);
    return { city: parsed.output_parsed, format: plain.text.format.type };
  },

  async input_items(user) {
    const client = user.client();
    const texts = ["0", "1", "2", "3", "4"];
    const messages = [...texts, user.prompt()].map((content) => ({ role: "user", content }));
    const done = await client.responses.create({ model: MODEL, input: messages });
    const read = async (query) =>
      (await collect(client.responses.inputItems.list(done.id, query))).map((item) => item.content[0].text);
    const page = await client.responses.inputItems.list(done.id, { limit: 2, order: "asc" });
    return {
      forwards: (await read({ limit: 2, order: "asc" })).slice(0, -1),
      backwards: (await read({ limit: 4 })).slice(1),
      after: (await read({ order: "asc", after: page.data[1].id })).slice(0, -1),
      page: [page.data.length, page.has_more],
      kinds: page.data.map((item) => [item.type, item.role]),
      ids: new Set(page.data.map((item) => item.id)).size,
    };
  },

  async input_items_of_a_text(user) {
    const client = user.client();
    const done = await client.responses.create({ model: MODEL, input: user.prompt() });
    const items = await collect(client.responses.inputItems.list(done.id));
    return {
      items: items.map((item) => [item.type, item.role, item.content.map((part) => part.type)]),
      text: items[0].content[0].text === user.prompt(),
    };
  },

  async input_tokens(user) {
    const client = user.client();
    const short = await client.responses.inputTokens.count({ model: MODEL, input: "Hello" });
    const long = await client.responses.inputTokens.count({
      model: MODEL,
      input: "Hello ".repeat(100),
      instructions: "Be brief.",
    });
    return { object: short.object, some: short.input_tokens > 0, more: long.input_tokens >= 100 };
  },

  async input_tokens_of_everything(user) {
    const client = user.client();
    const words = "Hello ".repeat(100);
    const first = await client.responses.create({ model: MODEL, input: user.prompt(undefined, words) });
    const counted = await client.responses.inputTokens.count({
      model: MODEL,
      input: "And now?",
      previous_response_id: first.id,
      tools: [WEATHER],
      tool_choice: "auto",
      parallel_tool_calls: false,
      text: { format: { type: "text" } },
      reasoning: { effort: "low" },
      truncation: "auto",
      personality: "friendly",
    });
    return { with_the_conversation: counted.input_tokens >= 100 };
  },

  // --- streams

  async stream(user) {
    const prompt = user.prompt('full text="Word by word."');
    const events = await collect(await user.client().responses.create({ model: MODEL, input: prompt, stream: true }));
    const final = events.at(-1).response;
    const lifecycle = events.filter((event) => event.response !== undefined);
    return {
      ...outcomeOf(events),
      final_text: final.output.flatMap((item) => item.content ?? []).map((part) => part.text).join(""),
      one_id: new Set(lifecycle.map((event) => event.response.id)).size,
      usage: final.usage.output_tokens > 0,
      billed_calls: await user.billedCalls(prompt),
    };
  },

  async stream_in_the_background_and_resume(user) {
    const client = user.client();
    const prompt = user.prompt(SLOWLY);
    const events = await client.responses.create({ model: MODEL, input: prompt, background: true, stream: true });
    const seen = [];
    for await (const event of events) {
      seen.push(event);
      if (event.type === "response.in_progress") break;
    }
    const id = seen[0].response.id;
    const cursor = seen.at(-1).sequence_number;
    const rest = await collect(await client.responses.retrieve(id, { stream: true, starting_after: cursor }));
    return {
      ...outcomeOf([...seen, ...rest]),
      resumed_at: rest[0].sequence_number - cursor,
      background: rest.at(-1).response.background,
      billed_calls: await user.billedCalls(prompt),
    };
  },

  async stream_replayed_after_the_end(user) {
    const client = user.client();
    const live = await streamed(user, SLOWLY, { background: true });
    const id = live[0].response.id;
    const replay = await collect(await client.responses.retrieve(id, { stream: true }));
    const cursor = Math.floor(live.length / 2);
    const half = await collect(await client.responses.retrieve(id, { stream: true, starting_after: cursor }));
    return {
      ...outcomeOf(replay),
      same: isDeepStrictEqual(replay, live),
      half: isDeepStrictEqual(half, live.slice(cursor + 1)),
    };
  },

  async stream_of_a_response_that_was_not_streamed(user) {
    const done = await user.run("full text=Polled.");
    return outcomeOf(await collect(await user.client().responses.retrieve(done.id, { stream: true })));
  },

  async stream_helper(user) {
    const events = user.client().responses.stream({ model: MODEL, input: user.prompt('full text="With help."') });
    const kinds = (await collect(events)).map((event) => event.type);
    const final = await events.finalResponse();
    return { first: kinds[0], last: kinds.at(-1), text: final.output_text, status: final.status };
  },

  async stream_helper_until_done(user) {
    const events = user.client().responses.stream({ model: MODEL, input: user.prompt("many-items items=3") });
    const final = await events.finalResponse();
    return { types: final.output.map((item) => item.type), text: final.output_text };
  },

  async stream_helper_by_id(user) {
    const client = user.client();
    const events = await client.responses.create({
      model: MODEL,
      input: user.prompt(SLOWLY),
      background: true,
      stream: true,
    });
    let id;
    for await (const event of events) {
      if (event.type !== "response.in_progress") continue;
      id = event.response.id;
      break;
    }
    const again = client.responses.stream({ response_id: id, starting_after: 3 });
    const numbers = (await collect(again)).map((event) => event.sequence_number);
    const final = await again.finalResponse();
    return { first: numbers[0], text: final.output_text, same_id: final.id === id };
  },

  async stream_helper_structured(user) {
    const Answer = z.object({ answer: z.number().int() });
    const text = JSON.stringify(JSON.stringify({ answer: 42 }));
    const events = user.client().responses.stream({
      model: MODEL,
      input: user.prompt(`json text=${text}`),
      text: { format: zodTextFormat(Answer, "Answer") },
    });
    return { answer: (await events.finalResponse()).output_parsed.answer };
  },

  async stream_of_a_tool_call(user) {
    const events = user.client().responses.stream({ model: MODEL, input: user.prompt(OSLO), tools: [WEATHER] });
    const kinds = (await collect(events)).map((event) => event.type);
    const final = await events.finalResponse();
    const [call] = final.output.filter((item) => item.type === "function_call");
    return {
      arguments: JSON.parse(call.arguments),
      delta: kinds.includes("response.function_call_arguments.delta"),
      done: kinds.includes("response.function_call_arguments.done"),
    };
  },

  async stream_that_fails(user) {
    const events = await streamed(user, "400-value");
    return { ...outcomeOf(events), code: events.at(-1).response.error.code };
  },

  async stream_that_is_cut(user) {
    const events = await streamed(user, "incomplete text=Once");
    return { ...outcomeOf(events), reason: events.at(-1).response.incomplete_details.reason };
  },

  async stream_that_is_cancelled(user) {
    const client = user.client();
    const stream = await client.responses.create({
      model: MODEL,
      input: user.prompt("full delay=60"),
      background: true,
      stream: true,
    });
    const events = [];
    for await (const event of stream) {
      events.push(event);
      if (event.type === "response.in_progress") await client.responses.cancel(event.response.id);
    }
    return outcomeOf(events);
  },

  async stream_that_is_deleted(user) {
    const client = user.client();
    const stream = await client.responses.create({
      model: MODEL,
      input: user.prompt("full delay=60"),
      background: true,
      stream: true,
    });
    try {
      for await (const event of stream) {
        if (event.type === "response.in_progress") await client.responses.delete(event.response.id);
      }
    } catch (error) {
      return { class: error.constructor.name, code: error.code, message: error.message.includes("not found") };
    }
    return {};
  },

  async stream_of_unknown_items(user) {
    return outcomeOf(await streamed(user, "unknown-items text=New."));
  },

  async final_response_of_a_failed_stream(user) {
    const facts = {};
    for (const [name, directive] of Object.entries({ failed: "400-value", incomplete: "incomplete text=Once" })) {
      const events = user.client().responses.stream({ model: MODEL, input: user.prompt(directive) });
      facts[name] = (await events.finalResponse()).status;
    }
    return facts;
  },

  async refused_before_it_streams(user) {
    return await user.refusal((client) =>
      client.responses.create({ model: MODEL, input: "x", stream: true, max_output_tokens: 3 }),
    );
  },

  // --- webhooks

  async webhook_of_every_end(user) {
    const secret = user.webhook_secret;
    const ids = {};
    for (const [end, directive] of Object.entries(ENDS)) {
      ids[end] = (await user.submit(directive, { webhook: { url: user.hook, secret } })).id;
    }
    await user.client().responses.cancel(ids.cancelled);
    const came = await user.delivered(EVENTS.length);
    const client = user.client({ webhookSecret: secret });
    const events = await Promise.all(came.map((each) => client.webhooks.unwrap(each.body, each.headers)));
    const reported = Object.fromEntries(
      events.map((event) => [event.data.id, [event.object, event.type, event.created_at > 0]]),
    );
    const verdicts = async (change, secret) =>
      [...new Set(await Promise.all(came.map((each) => verdict(user, change(each), secret))))].sort();
    const now = Date.now() / 1000;
    return {
      reported: Object.fromEntries(Object.entries(ids).map(([end, id]) => [end, reported[id]])),
      ids: events.map((event, index) => event.id === came[index].headers["webhook-id"]),
      "a tampered byte": await verdicts(
        (each) => ({ ...each, body: each.body.replace("resp_0", "resp_1") }),
        secret,
      ),
      "another secret": await verdicts((each) => each, OTHER_SECRET),
      "of now": await verdicts((each) => signed(each, secret, now), secret),
      "of six minutes ago": await verdicts((each) => signed(each, secret, now - 6 * MINUTE), secret),
    };
  },

  async webhook_endpoints(user) {
    const { webhooks } = user.client();
    const made = await webhooks.create({ name: "mine", url: user.hook, event_types: EVENTS });
    const found = await webhooks.retrieve(made.id);
    const another = await webhooks.create({ name: "another", url: user.hook, event_types: EVENTS.slice(0, 1) });
    const pages = (await collect(webhooks.list({ limit: 1 }))).map((each) => each.id);
    const behind = (await collect(webhooks.list({ after: another.id }))).map((each) => each.id);
    const changes = { name: "yours", url: `${user.hook}?2`, event_types: EVENTS.slice(1, 3) };
    const changed = await webhooks.update(made.id, changes);
    const back = await webhooks.update(made.id, { url: user.hook });
    const tested = await webhooks.test(made.id, { event_type: EVENTS[2] });
    const rotated = await webhooks.rotateSecret(made.id, { keep_old_secret_active_for_24_hours: true });
    await webhooks.test(made.id, { event_type: EVENTS[3] });
    // other scenarios run under the same key, and an endpoint hears of their ends as well
    const [first, second] = (await user.delivered(2)).filter((each) => each.body.includes("resp_test"));
    const gone = await webhooks.delete(another.id);
    await webhooks.delete(made.id);
    const secrets = [made.signing_secret, rotated.signing_secret];
    return {
      found: [found.name, found.url === user.hook, found.event_types],
      secret_shown: [made, found, changed, rotated].map((each) => Boolean(each.signing_secret)),
      pages: isDeepStrictEqual(pages, [another.id, made.id]),
      after: isDeepStrictEqual(behind, [made.id]),
      changed: [changed.name, changed.url === back.url, changed.event_types, back.url === user.hook],
      tested: [tested.webhook_endpoint_id === made.id, tested.event_type, tested.status_code, tested.success],
      first: await Promise.all(secrets.map((secret) => verdict(user, first, secret))),
      second: await Promise.all(secrets.map((secret) => verdict(user, second, secret))),
      event_types: (await webhooks.eventTypes.list()).data,
      gone: [
        gone.id === another.id,
        gone.deleted,
        await user.refusal((client) => client.webhooks.retrieve(another.id)),
      ],
      private: await user.refusal((client) =>
        client.webhooks.create({ name: "x", url: "https://10.0.0.1/", event_types: EVENTS }),
      ),
    };
  },
};
