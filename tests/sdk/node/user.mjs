// A user of the Node SDK: where the server is, and what he sees. The Python twin is tests/sdk/python/user.py.

import { createHash } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import OpenAI from "openai";

export const MODEL = "openai/o3-pro";
export const PAUSE = 100;

export class User {
  constructor(settings, scenario) {
    Object.assign(this, settings, { scenario });
  }

  // As the README has it: the address and the key.
  client(options = {}) {
    return new OpenAI({ baseURL: this.base_url, apiKey: this.api_key, ...options });
  }

  // What the simulated provider shall do, in words that nobody else says.
  prompt(directive = "full text=Done.", words = "Hello") {
    return `[[sim: ${directive}]] ${words} ${this.scenario} ${this.name}`;
  }

  async submit(directive, body = {}) {
    return await this.client().responses.create({
      model: MODEL,
      input: this.prompt(directive),
      background: true,
      ...body,
    });
  }

  async poll(response) {
    const client = this.client();
    while (response.status === "queued" || response.status === "in_progress") {
      await pause(PAUSE);
      response = await client.responses.retrieve(response.id);
    }
    return response;
  }

  async run(directive, body = {}) {
    return await this.poll(await this.submit(directive, body));
  }

  // What a user reads off the error; `requests` says how often the SDK asked before it gave up.
  async refusal(act, options = {}) {
    let requests = 0;
    const counting = (...call) => {
      requests += 1;
      return fetch(...call);
    };
    try {
      await act(this.client({ ...options, fetch: counting }));
    } catch (error) {
      if (!(error instanceof OpenAI.APIError) || error.status === undefined) throw error;
      return {
        class: error.constructor.name,
        status: error.status,
        type: error.type ?? null,
        code: error.code ?? null,
        param: error.param ?? null,
        message: Boolean(error.error?.message),
        request_id: (error.requestID ?? "").slice(0, 4),
        requests,
      };
    }
    return {};
  }

  // How often the provider was paid for this prompt.
  async billedCalls(prompt) {
    const prompt_sha256 = createHash("sha256").update(prompt).digest("hex");
    return (await this.#ledger({ prompt: prompt_sha256, billed: "true" })).length;
  }

  // The bodies that went to the provider for a response, one for each call.
  async sent(response) {
    const calls = await this.#ledger({ client_request_id_prefix: response.id, bodies: "true" });
    return calls.map((call) => JSON.parse(call.body));
  }

  // Where webhooks of this scenario are to go.
  get hook() {
    return `${this.receiver_url}/${this.name}/${this.scenario}`;
  }

  // The `headers` and `body` of each webhook that came, once so many have.
  async delivered(count) {
    for (;;) {
      const came = await (await fetch(this.hook)).json();
      if (came.length >= count) return came;
      await pause(PAUSE);
    }
  }

  async #ledger(query) {
    const answer = await fetch(`${this.provider_url}/_calls?${new URLSearchParams(query)}`);
    return (await answer.json()).calls;
  }
}

export async function collect(iterable) {
  const all = [];
  for await (const each of iterable) all.push(each);
  return all;
}

export function withoutRepetitions(list) {
  return list.filter((each, index) => each !== list[index - 1]);
}

// Summary of a stream; `types` without repetitions.
export function outcomeOf(events) {
  const last = events.at(-1);
  return {
    types: withoutRepetitions(events.map((event) => event.type)),
    gapless: events.every((event, index) => event.sequence_number === index),
    text: events.map((event) => (event.type === "response.output_text.delta" ? event.delta : "")).join(""),
    end: [last.type, last.response.status],
  };
}

export const farAway = () => Date.now() / 1000 + 3600;
