// Play one client's scenarios in every world, several at a time: one line of JSON each. The first line of the input holds
// the worlds and, if not all of them, the names of the scenarios. How a paid, empty answer ends is the client's own
// affair, so those scenarios (`empty_...`) always pass; the ledger tells what they cost.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { User } from "./user.mjs";

const AT_ONCE = 6;
const LONGEST = 2000;
const write = process.stdout.write.bind(process.stdout);
const tell = (line) => write(`${JSON.stringify(line)}\n`);
// clients print what they like; the results are ours
process.stdout.write = process.stderr.write.bind(process.stderr);
delete process.env.OPENAI_API_KEY;
delete process.env.OPENAI_BASE_URL;

const client = process.argv[2];
const input = createInterface({ input: process.stdin });
const wanted = JSON.parse((await input[Symbol.asyncIterator]().next()).value);
input.close();

const { packages, stateful, scenarios, modules = "./node_modules" } = await import(`./${client}.mjs`);
const names = Object.keys(scenarios).filter((name) => !wanted.scenarios?.length || wanted.scenarios.includes(name));
const version = (name) => JSON.parse(readFileSync(new URL(`${modules}/${name}/package.json`, import.meta.url))).version;
tell({ versions: Object.fromEntries(packages.map((name) => [name, version(name)])), scenarios: names });

for (const [world, { stateless, ...settings }] of Object.entries(wanted.worlds)) {
  const waiting = names.filter((name) => !(stateless && stateful.includes(name)));
  const play = async () => {
    while (waiting.length > 0) {
      const scenario = waiting.shift();
      const began = performance.now();
      let error = null;
      try {
        await scenarios[scenario](new User(client, scenario, settings));
      } catch (raised) {
        error = describe(raised);
      }
      const seconds = Math.round((performance.now() - began) / 10) / 100;
      tell({ world, scenario, ok: error === null || scenario.startsWith("empty_"), error, seconds });
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, play));
}
process.exit();

function describe(raised) {
  const where = String(raised?.stack ?? "").split("\n").filter((line) => line.includes("/tests/clients/node/") && !line.includes("node_modules"));
  const body = raised?.responseBody ?? raised?.lastError?.responseBody ?? "";
  return [String(raised), body, ...where].join("\n").slice(0, LONGEST);
}
