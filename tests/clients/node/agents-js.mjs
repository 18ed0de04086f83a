// The OpenAI Agents SDK for JavaScript with its Responses model.

import { Agent, handoff, MemorySession, OpenAIResponsesModel, run, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import { MODEL, PNG_URL, collect, expect, expectEqual, resultOfTool } from "./user.mjs";

export const packages = ["@openai/agents", "openai"];
export const stateful = ["previous_response_id", "tool_loop_by_previous_response_id"];
setTracingDisabled(true); // the default sends traces to OpenAI

const Weather = z.object({ city: z.string(), degrees: z.number() });
const MILD = { city: "Paris", degrees: 22 };

const execute = async ({ city }) => resultOfTool(`22 degrees in ${city}`, `It is mild in ${city}.`);
const getWeather = tool({
  name: "get_weather",
  description: "Get the weather of a city.",
  parameters: z.object({ city: z.string() }),
  execute,
});
const getLooseWeather = tool({
  name: "get_loose_weather",
  description: "Get the weather of a city, in any unit.",
  strict: false,
  parameters: {
    type: "object",
    properties: { city: { type: "string" }, unit: { type: "string" } },
    required: ["city"],
    additionalProperties: true,
  },
  execute,
});
const getTime = tool({
  name: "get_time",
  description: "Get the time of a city.",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => `noon in ${city}`,
});

function agent(user, options = {}) {
  const client = new OpenAI({ baseURL: user.base_url, apiKey: user.api_key });
  return new Agent({ name: "Assistant", model: new OpenAIResponsesModel(client, MODEL), ...options });
}

const says = (content) => ({ role: "user", content });

export const scenarios = {
  async text(user) {
    const result = await run(agent(user), user.asks("Hello.", "Good day."));
    expectEqual(result.finalOutput, "Good day.");
    expect(result.rawResponses[0].usage.outputTokens > 0, result.rawResponses);
  },

  async stream(user) {
    const result = await run(agent(user), user.asks("Hello.", "Good day to all of you."), { stream: true });
    const text = (await collect(result.toTextStream())).join("");
    await result.completed;
    expectEqual([text, result.finalOutput], Array(2).fill("Good day to all of you."));
  },

  async instructions(user) {
    const result = await run(agent(user, { instructions: "You are a parrot." }), user.asks("Hello.", "Good day."));
    expectEqual(result.finalOutput, "Good day.");
    await user.expectProviderGot("You are a parrot.");
  },

  async tool_loop(user) {
    const question = user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" });
    const result = await run(agent(user, { tools: [getWeather] }), question);
    expectEqual(result.finalOutput, "It is mild in Paris.");
    await user.expectProviderGot("22 degrees in Paris");
  },

  async tool_loop_not_strict(user) {
    const question = user.asksForTool("The weather of Paris?", "get_loose_weather", { city: "Paris" });
    const result = await run(agent(user, { tools: [getLooseWeather] }), question);
    expectEqual(result.finalOutput, "It is mild in Paris.");
  },

  async tool_loop_streamed(user) {
    const question = user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" });
    const result = await run(agent(user, { tools: [getWeather] }), question, { stream: true });
    expectEqual((await collect(result.toTextStream())).join(""), "It is mild in Paris.");
    await result.completed;
  },

  async parallel_tools(user) {
    const made = agent(user, { tools: [getWeather, getTime], modelSettings: { parallelToolCalls: true } });
    const result = await run(made, user.asksForTools("get_weather", "get_time"));
    expect(result.finalOutput, result.finalOutput);
    await user.expectProviderGot("22 degrees in", "noon in");
  },

  async history(user) {
    const first = await run(agent(user), user.asks("My name is Ada.", "Hello, Ada."));
    const second = await run(agent(user), [...first.history, says(user.asks("What is my name?", "Ada."))]);
    expectEqual(second.finalOutput, "Ada.");
    await user.expectProviderGot("Hello, Ada.");
  },

  async history_of_others(user) {
    const result = await run(agent(user), [
      says(`My name is Ada. ${user.tag}`),
      { role: "assistant", status: "completed", content: [{ type: "output_text", text: "Hello, Ada." }] },
      says(user.asks("What is my name?", "Ada.")),
    ]);
    expectEqual(result.finalOutput, "Ada.");
    await user.expectProviderGot("Hello, Ada.");
  },

  async session(user) {
    const made = agent(user, { tools: [getWeather] });
    const session = new MemorySession();
    const question = user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" });
    await run(made, question, { session });
    const result = await run(made, user.asks("Thank you.", "Not at all."), { session });
    expectEqual(result.finalOutput, "Not at all.");
    await user.expectProviderGot("It is mild in Paris.");
  },

  async previous_response_id(user) {
    const first = await run(agent(user), user.asks("My name is Ada.", "Hello, Ada."));
    const second = await run(agent(user), user.asks("What is my name?", "Ada."), {
      previousResponseId: first.lastResponseId,
    });
    expectEqual(second.finalOutput, "Ada.");
    await user.expectProviderGot("Hello, Ada.");
  },

  async tool_loop_by_previous_response_id(user) {
    const made = agent(user, { tools: [getWeather] });
    const first = await run(made, user.asks("My name is Ada.", "Hello, Ada."));
    const question = user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" });
    const second = await run(made, question, { previousResponseId: first.lastResponseId });
    expectEqual(second.finalOutput, "It is mild in Paris.");
    await user.expectProviderGot("Hello, Ada.", "22 degrees in Paris");
  },

  async structured(user) {
    const result = await run(agent(user, { outputType: Weather }), user.asksForJson("The weather of Paris?", MILD));
    expectEqual(result.finalOutput, MILD);
  },

  async image(user) {
    const content = [
      { type: "input_text", text: user.asks("Of which colour is this?", "Red.") },
      { type: "input_image", image: PNG_URL },
    ];
    const result = await run(agent(user), [says(content)]);
    expectEqual(result.finalOutput, "Red.");
    await user.expectProviderGot(PNG_URL);
  },

  async reasoning_given_back(user) {
    const modelSettings = {
      reasoning: { effort: "low", summary: "auto" },
      store: false,
      providerData: { include: ["reasoning.encrypted_content"] },
    };
    const made = agent(user, { tools: [getWeather], modelSettings });
    const question = user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" });
    const first = await run(made, question);
    expect(first.newItems.some((item) => item.type === "reasoning_item"), first.newItems);
    const second = await run(made, [...first.history, says(user.asks("Thank you.", "Not at all."))]);
    expectEqual(second.finalOutput, "Not at all.");
  },

  async verbosity(user) {
    const made = agent(user, { modelSettings: { text: { verbosity: "low" } } });
    expectEqual((await run(made, user.asks("Hello.", "Good day."))).finalOutput, "Good day.");
  },

  async handoffs(user) {
    const expert = agent(user, { name: "Weather expert", instructions: "You know the weather." });
    const question = user.asksForTool("The weather of Paris?", "transfer_to_Weather_expert", {});
    const result = await run(agent(user, { handoffs: [handoff(expert)] }), question);
    expectEqual(result.lastAgent.name, "Weather expert");
    expect(result.finalOutput, result.finalOutput);
  },

  async empty_held(user) {
    await run(agent(user), user.asksForNothing(), { maxTurns: 2 });
  },

  async empty_streamed(user) {
    const result = await run(agent(user), user.asksForNothing(), { stream: true, maxTurns: 2 });
    await collect(result.toTextStream());
    await result.completed;
  },
};
