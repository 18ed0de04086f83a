// Play every scenario, several at a time, and print what was seen: one line of JSON each. The first line of the input
// says who the user is, each other one that the next stage may begin.

import { createInterface } from "node:readline";
import { VERSION } from "openai/version";
import { busy, scenarios } from "./scenarios.mjs";
import { User } from "./user.mjs";

const AT_ONCE = 10;
const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const input = createInterface({ input: process.stdin });
const lines = input[Symbol.asyncIterator]();
const settings = JSON.parse((await lines.next()).value);
tell({ version: VERSION, scenarios: Object.keys({ ...scenarios, ...busy }) });

for (const stage of [scenarios, busy]) {
  const waiting = Object.entries(stage);
  const play = async () => {
    while (waiting.length > 0) {
      const [scenario, act] = waiting.shift();
      try {
        tell({ scenario, facts: await act(new User(settings, scenario)) });
      } catch (error) {
        tell({ scenario, error: String(error?.stack ?? error) });
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, play));
  tell({ stage: "over" });
  await lines.next(); // until all others are as far
}

input.close();
