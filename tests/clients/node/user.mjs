// A user of one client: where the server is, what he asks for, and what he finds wrong. Its twin is ../python/user.py.

export const MODEL = "openai/o3-pro";
// for clients that go by OpenAI's own names; the server and the provider know it as an alias
export const BARE_MODEL = "o3-pro";
// one red pixel
export const PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";
export const PNG_URL = `data:image/png;base64,${PNG}`;

const quoted = (text) => JSON.stringify(text);

export class User {
  constructor(client, scenario, settings) {
    Object.assign(this, settings, { client, scenario });
  }

  // Marks the prompts, so that the provider's ledger tells whose a call was.
  get tag() {
    return `<${this.client}/${this.scenario}>`;
  }

  asks(words, answer) {
    return `[[sim: full text=${quoted(answer)}]] ${words} ${this.tag}`;
  }

  asksForJson(words, answer) {
    return `[[sim: json text=${quoted(JSON.stringify(answer))}]] ${words} ${this.tag}`;
  }

  asksForTool(words, name, args) {
    return `[[sim: tool-call name=${name} arguments=${quoted(JSON.stringify(args))}]] ${words} ${this.tag}`;
  }

  // Answered with a call of each of these functions, all in one answer.
  asksForTools(...names) {
    return `Call ${names.join(" and ")}. ${this.tag}`;
  }

  // Paid for, and without a text.
  asksForNothing() {
    return `[[sim: empty]] Say nothing. ${this.tag}`;
  }

  // The bodies that the provider got in this scenario, in order.
  async sent() {
    const answer = await fetch(`${this.provider_url}/_calls?bodies=true&limit=200`);
    const { calls } = await answer.json();
    return calls.filter((call) => call.body?.includes(this.tag)).map((call) => JSON.parse(call.body));
  }

  // Fails unless the last call of this scenario carried these words.
  async expectProviderGot(...words) {
    const sent = await this.sent();
    const last = JSON.stringify(sent.at(-1) ?? null);
    for (const each of words) expect(last.includes(JSON.stringify(each).slice(1, -1)), sent);
  }
}

// A tool's result, after which the provider answers with a text.
export function resultOfTool(result, answer) {
  return `${result} [[sim: full text=${quoted(answer)}]]`;
}

// A tool's result, after which the provider calls another function.
export function resultThatCalls(result, name, args) {
  return `${result} [[sim: tool-call name=${name} arguments=${quoted(JSON.stringify(args))}]]`;
}

export function expect(condition, seen) {
  if (!condition) throw new Error(`saw ${JSON.stringify(seen)}`);
}

export function expectEqual(seen, wanted) {
  expect(JSON.stringify(seen) === JSON.stringify(wanted), seen);
}

export async function collect(iterable) {
  const all = [];
  for await (const each of iterable) all.push(each);
  return all;
}
