// Codex, the command, with a provider of its own in its configuration. It always streams, and knows no other way back
// to an earlier turn than to send it again. Its sub-agents are switched off but in one scenario: it offers them in a tool
// of the kind `namespace`, which AI/ML API's schema does not have.

import { spawn } from "node:child_process";
import { mkdtemp, writeFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { MODEL, PNG, collect, expect, expectEqual, resultOfTool } from "./user.mjs";

export const modules = "../codex/node_modules";
export const packages = ["@openai/codex"];
export const stateful = [];

const program = fileURLToPath(new URL(`${modules}/@openai/codex/bin/codex.js`, import.meta.url));
const SECONDS = 60;

// A directory of its own for each user: Codex keeps sessions there.
async function withHome(act) {
  const home = await mkdtemp(join(tmpdir(), "codex-"));
  try {
    return await act(home);
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}

// What `codex exec` says, event by event; the tools may run, as nobody is there to be asked.
async function codex(user, home, args, options = {}) {
  const provider = `{name="Backburner", base_url="${user.base_url}", env_key="BACKBURNER_API_KEY", wire_api="responses"}`;
  const settings = ["-c", "model_provider=backburner", "-c", `model_providers.backburner=${provider}`, "-m", MODEL];
  const given = Object.entries({ "features.multi_agent": false, ...options }).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  const flags = ["--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"];
  const child = spawn(process.execPath, [program, "exec", ...flags, ...settings, ...given, ...args], {
    cwd: home,
    env: { ...process.env, CODEX_HOME: home, BACKBURNER_API_KEY: user.api_key },
    stdio: ["ignore", "pipe", "ignore"],
    timeout: SECONDS * 1000,
  });
  const text = (await collect(child.stdout.setEncoding("utf8"))).join("");
  return text.trim().split("\n").map((line) => JSON.parse(line));
}

const items = (events, type) => events.filter((e) => e.type === "item.completed" && e.item.type === type).map((e) => e.item);
const said = (events) => items(events, "agent_message").at(-1)?.text;

async function ask(user, question, args = [], options = {}) {
  return await withHome((home) => codex(user, home, [...args, question], options));
}

export const scenarios = {
  async text(user) {
    const events = await ask(user, user.asks("Hello.", "Good day."));
    expectEqual(said(events), "Good day.");
    expect(events.at(-1).type === "turn.completed" && events.at(-1).usage.output_tokens > 0, events);
  },

  async tool_loop(user) {
    const cmd = `echo ${resultOfTool("22 degrees", "It is mild.").replace(/["[\]]/g, "\\$&")}`;
    const events = await ask(user, user.asksForTool("The weather?", "exec_command", { cmd }));
    expectEqual(said(events), "It is mild.");
    expect(items(events, "command_execution").length === 1, events);
    await user.expectProviderGot("22 degrees");
  },

  async history(user) {
    const events = await withHome(async (home) => {
      await codex(user, home, [user.asks("My name is Ada.", "Hello, Ada.")]);
      return await codex(user, home, ["resume", "--last", user.asks("What is my name?", "Ada.")]);
    });
    expectEqual(said(events), "Ada.");
    await user.expectProviderGot("Hello, Ada.");
  },

  async history_with_tools(user) {
    const events = await withHome(async (home) => {
      await codex(user, home, [user.asksForTool("The weather?", "exec_command", { cmd: "echo 22 degrees" })]);
      return await codex(user, home, ["resume", "--last", user.asks("Thank you.", "Not at all.")]);
    });
    expectEqual(said(events), "Not at all.");
    await user.expectProviderGot("22 degrees");
  },

  async structured(user) {
    const schema = {
      type: "object",
      properties: { city: { type: "string" }, degrees: { type: "integer" } },
      required: ["city", "degrees"],
      additionalProperties: false,
    };
    const answer = { city: "Paris", degrees: 22 };
    const events = await withHome(async (home) => {
      await writeFile(join(home, "schema.json"), JSON.stringify(schema));
      const question = user.asksForJson("The weather of Paris?", answer);
      return await codex(user, home, ["--output-schema", join(home, "schema.json"), question]);
    });
    expectEqual(JSON.parse(said(events)), answer);
  },

  async image(user) {
    const events = await withHome(async (home) => {
      await writeFile(join(home, "red.png"), Buffer.from(PNG, "base64"));
      return await codex(user, home, ["-i", join(home, "red.png"), "--", user.asks("Of which colour is this?", "Red.")]);
    });
    expectEqual(said(events), "Red.");
    await user.expectProviderGot("data:image/png;base64,");
  },

  async reasoning_given_back(user) {
    const options = { model_reasoning_effort: "low", model_reasoning_summary: "detailed", model_supports_reasoning_summaries: true };
    const question = user.asksForTool("The weather?", "exec_command", { cmd: "echo 22 degrees" });
    const events = await ask(user, question, [], options);
    expect(said(events), events);
    await user.expectProviderGot("22 degrees", "encrypted_content");
  },

  async verbosity(user) {
    const events = await ask(user, user.asks("Hello.", "Good day."), [], { model_verbosity: "low" });
    expectEqual(said(events), "Good day.");
  },

  async with_sub_agents(user) {
    const events = await ask(user, user.asks("Hello.", "Good day."), [], { "features.multi_agent": true });
    expectEqual(said(events), "Good day.");
  },

  async empty_streamed(user) {
    const events = await ask(user, user.asksForNothing());
    expect(events.some((event) => event.type === "turn.completed"), events);
  },
};
