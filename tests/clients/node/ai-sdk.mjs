// Vercel's AI SDK with @ai-sdk/openai, whose default is the Responses API.

import { createOpenAI } from "@ai-sdk/openai";
import { generateText, isStepCount, Output, streamText, tool, ToolLoopAgent } from "ai";
import { z } from "zod";
import { BARE_MODEL, MODEL, PNG, PNG_URL, collect, expect, expectEqual, resultOfTool, resultThatCalls } from "./user.mjs";

export const packages = ["ai", "@ai-sdk/openai"];
// by default it refers to stored items instead of sending them again
export const stateful = ["history", "three_turns", "previous_response_id", "tool_loop_by_previous_response_id"];

const Weather = z.object({ city: z.string(), degrees: z.number(), sky: z.string().nullable() });
const MILD = { city: "Paris", degrees: 22, sky: null };

const tools = {
  get_weather: tool({
    description: "Get the weather of a city.",
    inputSchema: z.object({ city: z.string(), unit: z.string().optional() }),
    execute: async ({ city }) => resultOfTool(`22 degrees in ${city}`, `It is mild in ${city}.`),
  }),
  get_station: tool({
    description: "Get the weather station of a region.",
    inputSchema: z.object({ region: z.string() }),
    execute: async ({ region }) => resultThatCalls(`Paris is the station of ${region}`, "get_weather", { city: "Paris" }),
  }),
  get_time: tool({
    description: "Get the time of a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `noon in ${city}`,
  }),
};

const provider = (user) => createOpenAI({ baseURL: user.base_url, apiKey: user.api_key });
const model = (user, name = MODEL) => provider(user)(name);
const turn = (role, content) => ({ role, content });
const settings = (openai) => ({ providerOptions: { openai } });

export const scenarios = {
  async text(user) {
    const { text, usage } = await generateText({ model: model(user), prompt: user.asks("Hello.", "Good day.") });
    expectEqual(text, "Good day.");
    expect(usage.outputTokens > 0, usage);
  },

  async text_of_bare_model(user) {
    const { text } = await generateText({ model: model(user, BARE_MODEL), prompt: user.asks("Hello.", "Good day.") });
    expectEqual(text, "Good day.");
  },

  async stream(user) {
    const result = streamText({ model: model(user), prompt: user.asks("Hello.", "Good day to all of you.") });
    expectEqual((await collect(result.textStream)).join(""), "Good day to all of you.");
    expectEqual(await result.finishReason, "stop");
  },

  async instructions(user) {
    const { text } = await generateText({
      model: model(user),
      instructions: "You are a parrot.",
      prompt: user.asks("Hello.", "Good day."),
    });
    expectEqual(text, "Good day.");
    await user.expectProviderGot("You are a parrot.");
  },

  async instructions_of_bare_model(user) {
    const { text } = await generateText({
      model: model(user, BARE_MODEL),
      instructions: "You are a parrot.",
      prompt: user.asks("Hello.", "Good day."),
    });
    expectEqual(text, "Good day.");
    await user.expectProviderGot("You are a parrot.");
  },

  async tool_loop(user) {
    const { text, steps } = await generateText({
      model: model(user),
      tools,
      stopWhen: isStepCount(5),
      prompt: user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" }),
    });
    expectEqual(text, "It is mild in Paris.");
    expectEqual(steps.length, 2);
    await user.expectProviderGot("22 degrees in Paris");
  },

  async tool_loop_of_bare_model(user) {
    const { text } = await generateText({
      model: model(user, BARE_MODEL),
      tools,
      stopWhen: isStepCount(5),
      prompt: user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" }),
    });
    expectEqual(text, "It is mild in Paris.");
  },

  async tool_loop_without_store(user) {
    const { text } = await generateText({
      model: model(user, BARE_MODEL),
      tools,
      stopWhen: isStepCount(5),
      prompt: user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" }),
      ...settings({ store: false, reasoningEffort: "low", reasoningSummary: "auto" }),
    });
    expectEqual(text, "It is mild in Paris.");
    await user.expectProviderGot("22 degrees in Paris");
  },

  async tool_loop_streamed(user) {
    const result = streamText({
      model: model(user),
      tools,
      stopWhen: isStepCount(5),
      prompt: user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" }),
    });
    expectEqual((await collect(result.textStream)).join(""), "It is mild in Paris.");
  },

  async parallel_tools(user) {
    const { text, steps } = await generateText({
      model: model(user),
      tools,
      stopWhen: isStepCount(5),
      prompt: user.asksForTools("get_weather", "get_time"),
      ...settings({ parallelToolCalls: true }),
    });
    expect(text !== "" && steps[0].toolCalls.length === 2, steps);
    await user.expectProviderGot("22 degrees in", "noon in");
  },

  async forced_tool(user) {
    const { toolCalls } = await generateText({
      model: model(user),
      tools: { get_time: tools.get_time },
      toolChoice: { type: "tool", toolName: "get_time" },
      prompt: `What time is it? ${user.tag}`,
    });
    expectEqual(toolCalls.map((call) => call.toolName), ["get_time"]);
  },

  async history(user) {
    const messages = [turn("user", user.asks("My name is Ada.", "Hello, Ada."))];
    const first = await generateText({ model: model(user), messages });
    messages.push(...first.response.messages, turn("user", user.asks("What is my name?", "Ada.")));
    const { text } = await generateText({ model: model(user), messages });
    expectEqual(text, "Ada.");
    await user.expectProviderGot("Hello, Ada.");
  },

  async history_without_store(user) {
    const once = async (messages) =>
      await generateText({ model: model(user, BARE_MODEL), messages, ...settings({ store: false }) });
    const messages = [turn("user", user.asks("My name is Ada.", "Hello, Ada."))];
    const first = await once(messages);
    messages.push(...first.response.messages, turn("user", user.asks("What is my name?", "Ada.")));
    const { text } = await once(messages);
    expectEqual(text, "Ada.");
    await user.expectProviderGot("Hello, Ada.");
  },

  async history_of_others(user) {
    const { text } = await generateText({
      model: model(user),
      messages: [
        turn("user", `My name is Ada. ${user.tag}`),
        turn("assistant", "Hello, Ada."),
        turn("user", user.asks("What is my name?", "Ada.")),
      ],
    });
    expectEqual(text, "Ada.");
    await user.expectProviderGot("Hello, Ada.");
  },

  async history_of_tools_of_others(user) {
    const call = { toolCallId: "call_1", toolName: "get_weather" };
    const output = { type: "text", value: "22 degrees in Paris" };
    const { text } = await generateText({
      model: model(user),
      tools,
      messages: [
        turn("user", `The weather of Paris? ${user.tag}`),
        turn("assistant", [{ type: "tool-call", ...call, input: { city: "Paris" } }]),
        turn("tool", [{ type: "tool-result", ...call, output }]),
        turn("assistant", "It is mild in Paris."),
        turn("user", user.asks("Thank you.", "Not at all.")),
      ],
    });
    expectEqual(text, "Not at all.");
    await user.expectProviderGot("22 degrees in Paris");
  },

  async previous_response_id(user) {
    const first = await generateText({ model: model(user), prompt: user.asks("My name is Ada.", "Hello, Ada.") });
    const { text } = await generateText({
      model: model(user),
      prompt: user.asks("What is my name?", "Ada."),
      ...settings({ previousResponseId: first.finalStep.providerMetadata.openai.responseId }),
    });
    expectEqual(text, "Ada.");
    await user.expectProviderGot("Hello, Ada.");
  },

  async tool_loop_by_previous_response_id(user) {
    const first = await generateText({
      model: model(user),
      tools,
      prompt: user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" }),
    });
    const { text } = await generateText({
      model: model(user),
      tools,
      messages: first.response.messages.filter((message) => message.role === "tool"),
      ...settings({ previousResponseId: first.finalStep.providerMetadata.openai.responseId }),
    });
    expectEqual(text, "It is mild in Paris.");
    await user.expectProviderGot("22 degrees in Paris", "The weather of Paris?");
  },

  // by default, which is by reference, and with the items themselves
  async three_turns(user) {
    for (const openai of [{}, { reasoningSummary: "auto" }, { store: false, reasoningSummary: "auto" }]) {
      const { text, steps } = await generateText({
        model: model(user, BARE_MODEL),
        tools,
        stopWhen: isStepCount(5),
        prompt: user.asksForTool("The weather of France?", "get_station", { region: "France" }),
        ...settings(openai),
      });
      expectEqual(text, "It is mild in Paris.");
      expectEqual(steps.length, 3);
      await user.expectProviderGot("22 degrees in Paris", "station of France");
    }
  },

  async structured(user) {
    const { output } = await generateText({
      model: model(user),
      output: Output.object({ schema: Weather }),
      prompt: user.asksForJson("The weather of Paris?", MILD),
    });
    expectEqual(output, MILD);
  },

  async structured_streamed(user) {
    const result = streamText({
      model: model(user),
      output: Output.object({ schema: Weather }),
      prompt: user.asksForJson("The weather of Paris?", MILD),
    });
    expectEqual((await collect(result.partialOutputStream)).at(-1), MILD);
  },

  async image(user) {
    const content = [
      { type: "text", text: user.asks("Of which colour is this?", "Red.") },
      { type: "file", mediaType: "image/png", data: PNG },
    ];
    const { text } = await generateText({ model: model(user), messages: [turn("user", content)] });
    expectEqual(text, "Red.");
    await user.expectProviderGot(PNG_URL);
  },

  async reasoning_given_back(user) {
    const once = async (messages) =>
      await generateText({
        model: model(user, BARE_MODEL),
        messages,
        tools,
        stopWhen: isStepCount(5),
        ...settings({ store: false, reasoningEffort: "low", reasoningSummary: "auto", include: ["reasoning.encrypted_content"] }),
      });
    const messages = [turn("user", user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" }))];
    const first = await once(messages);
    messages.push(...first.response.messages, turn("user", user.asks("Thank you.", "Not at all.")));
    const { text } = await once(messages);
    expectEqual(text, "Not at all.");
    await user.expectProviderGot("It is mild in Paris.");
  },

  async verbosity(user) {
    const { text } = await generateText({
      model: model(user),
      prompt: user.asks("Hello.", "Good day."),
      ...settings({ textVerbosity: "low" }),
    });
    expectEqual(text, "Good day.");
  },

  async agent(user) {
    const agent = new ToolLoopAgent({ model: model(user), instructions: "You are a parrot.", tools });
    const { text } = await agent.generate({
      prompt: user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" }),
    });
    expectEqual(text, "It is mild in Paris.");
  },

  async empty_held(user) {
    await generateText({ model: model(user), prompt: user.asksForNothing() });
  },

  async empty_streamed(user) {
    const errors = [];
    await collect(
      streamText({ model: model(user), prompt: user.asksForNothing(), onError: ({ error }) => errors.push(error) }).textStream,
    );
    if (errors.length > 0) throw errors[0];
  },
};
