// LangChain.js' ChatOpenAI in its Responses mode, and its agents.

import { AIMessage, HumanMessage, SystemMessage, ToolMessage } from "@langchain/core/messages";
import { MemorySaver } from "@langchain/langgraph";
import { ChatOpenAI } from "@langchain/openai";
import { createAgent, providerStrategy, tool } from "langchain";
import { z } from "zod";
import { MODEL, PNG, PNG_URL, collect, expect, expectEqual, resultOfTool } from "./user.mjs";

export const packages = ["@langchain/openai", "@langchain/core", "langchain"];
export const stateful = ["previous_response_id", "tool_loop_by_previous_response_id"];

const Weather = z.object({ city: z.string(), degrees: z.number() });
const MILD = { city: "Paris", degrees: 22 };

const getWeather = tool(async ({ city }) => resultOfTool(`22 degrees in ${city}`, `It is mild in ${city}.`), {
  name: "get_weather",
  description: "Get the weather of a city.",
  schema: z.object({ city: z.string() }),
});
const getTime = tool(async ({ city }) => `noon in ${city}`, {
  name: "get_time",
  description: "Get the time of a city.",
  schema: z.object({ city: z.string() }),
});
const tools = [getWeather, getTime];

const chat = (user, options = {}) =>
  new ChatOpenAI({
    model: MODEL,
    apiKey: user.api_key,
    configuration: { baseURL: user.base_url },
    useResponsesApi: true,
    ...options,
  });

// Asks until the model calls nothing any more.
async function loop(model, question, options = {}) {
  const messages = [new HumanMessage(question)];
  for (let turn = 0; turn < 3; turn += 1) {
    const answer = await model.invoke(messages, options);
    messages.push(answer);
    if (!answer.tool_calls?.length) return messages;
    for (const call of answer.tool_calls) {
      messages.push(await tools.find((each) => each.name === call.name).invoke(call));
    }
  }
  throw new Error("the tool is called for ever");
}

export const scenarios = {
  async text(user) {
    const answer = await chat(user).invoke(user.asks("Hello.", "Good day."));
    expectEqual(answer.text, "Good day.");
    expect(answer.usage_metadata.output_tokens > 0, answer);
  },

  async stream(user) {
    const chunks = await collect(await chat(user).stream(user.asks("Hello.", "Good day to all of you.")));
    expectEqual(chunks.map((chunk) => chunk.text).join(""), "Good day to all of you.");
  },

  async instructions(user) {
    const messages = [new SystemMessage("You are a parrot."), new HumanMessage(user.asks("Hello.", "Good day."))];
    expectEqual((await chat(user).invoke(messages)).text, "Good day.");
    await user.expectProviderGot("You are a parrot.");
  },

  async tool_loop(user) {
    const question = user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" });
    const messages = await loop(chat(user).bindTools(tools), question);
    expectEqual(messages.at(-1).text, "It is mild in Paris.");
    await user.expectProviderGot("22 degrees in Paris");
  },

  async tool_loop_strict(user) {
    const question = user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" });
    const messages = await loop(chat(user).bindTools(tools, { strict: true }), question);
    expectEqual(messages.at(-1).text, "It is mild in Paris.");
  },

  async tool_call_streamed(user) {
    const question = user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" });
    const chunks = await collect(await chat(user).bindTools(tools).stream(question));
    const whole = chunks.reduce((before, chunk) => before.concat(chunk));
    expectEqual(whole.tool_calls.map((call) => [call.name, call.args]), [["get_weather", { city: "Paris" }]]);
  },

  async parallel_tools(user) {
    const model = chat(user).bindTools(tools, { parallel_tool_calls: true });
    const messages = await loop(model, user.asksForTools("get_weather", "get_time"));
    expectEqual(messages.filter((message) => ToolMessage.isInstance(message)).length, 2);
    await user.expectProviderGot("22 degrees in", "noon in");
  },

  async history(user) {
    const model = chat(user);
    const messages = [new HumanMessage(user.asks("My name is Ada.", "Hello, Ada."))];
    messages.push(await model.invoke(messages), new HumanMessage(user.asks("What is my name?", "Ada.")));
    expectEqual((await model.invoke(messages)).text, "Ada.");
    await user.expectProviderGot("Hello, Ada.");
  },

  async history_of_others(user) {
    const answer = await chat(user).invoke([
      ["system", "Be brief."],
      ["user", `My name is Ada. ${user.tag}`],
      new AIMessage("Hello, Ada."),
      ["user", user.asks("What is my name?", "Ada.")],
    ]);
    expectEqual(answer.text, "Ada.");
    await user.expectProviderGot("Hello, Ada.");
  },

  async history_with_tools(user) {
    const model = chat(user).bindTools(tools);
    const messages = await loop(model, user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" }));
    messages.push(new HumanMessage(user.asks("Thank you.", "Not at all.")));
    expectEqual((await model.invoke(messages)).text, "Not at all.");
    await user.expectProviderGot("It is mild in Paris.");
  },

  async previous_response_id(user) {
    const model = chat(user);
    const first = await model.invoke(user.asks("My name is Ada.", "Hello, Ada."));
    const second = await model.invoke(user.asks("What is my name?", "Ada."), {
      previous_response_id: first.response_metadata.id,
    });
    expectEqual(second.text, "Ada.");
    await user.expectProviderGot("Hello, Ada.");
  },

  async tool_loop_by_previous_response_id(user) {
    const model = chat(user).bindTools(tools);
    const first = await model.invoke(user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" }));
    const result = await getWeather.invoke(first.tool_calls[0]);
    const second = await model.invoke([result], { previous_response_id: first.response_metadata.id });
    expectEqual(second.text, "It is mild in Paris.");
    await user.expectProviderGot("22 degrees in Paris", "The weather of Paris?");
  },

  async structured(user) {
    const model = chat(user).withStructuredOutput(Weather, { name: "Weather", method: "jsonSchema" });
    expectEqual(await model.invoke(user.asksForJson("The weather of Paris?", MILD)), MILD);
  },

  async structured_by_tool(user) {
    const model = chat(user).withStructuredOutput(Weather, { name: "Weather", method: "functionCalling" });
    expectEqual(await model.invoke(user.asksForTool("The weather of Paris?", "Weather", MILD)), MILD);
  },

  async json_mode(user) {
    const model = chat(user).withStructuredOutput(Weather, { method: "jsonMode" });
    expectEqual(await model.invoke(user.asksForJson("The weather of Paris in JSON?", MILD)), MILD);
  },

  async image(user) {
    const content = [
      { type: "text", text: user.asks("Of which colour is this?", "Red.") },
      { type: "image", mimeType: "image/png", data: PNG },
    ];
    expectEqual((await chat(user).invoke([new HumanMessage({ contentBlocks: content })])).text, "Red.");
    await user.expectProviderGot(PNG_URL);
  },

  async image_of_chat_completions(user) {
    const content = [
      { type: "text", text: user.asks("Of which colour is this?", "Red.") },
      { type: "image_url", image_url: { url: PNG_URL } },
    ];
    expectEqual((await chat(user).invoke([new HumanMessage({ content })])).text, "Red.");
    await user.expectProviderGot(PNG_URL);
  },

  async reasoning_given_back(user) {
    const model = chat(user, { reasoning: { effort: "low", summary: "auto" }, zdrEnabled: true }).bindTools(tools);
    const messages = await loop(model, user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" }));
    messages.push(new HumanMessage(user.asks("Thank you.", "Not at all.")));
    expectEqual((await model.invoke(messages)).text, "Not at all.");
  },

  async verbosity(user) {
    const answer = await chat(user, { verbosity: "low" }).invoke(user.asks("Hello.", "Good day."));
    expectEqual(answer.text, "Good day.");
  },

  async agent(user) {
    const agent = createAgent({ model: chat(user), tools, systemPrompt: "You are a parrot." });
    const question = user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" });
    const { messages } = await agent.invoke({ messages: [new HumanMessage(question)] });
    expectEqual(messages.at(-1).text, "It is mild in Paris.");
  },

  async agent_with_memory(user) {
    const agent = createAgent({ model: chat(user), tools, checkpointer: new MemorySaver() });
    const thread = { configurable: { thread_id: "1" } };
    const question = user.asksForTool("The weather of Paris?", "get_weather", { city: "Paris" });
    await agent.invoke({ messages: [new HumanMessage(question)] }, thread);
    const thanks = new HumanMessage(user.asks("Thank you.", "Not at all."));
    const { messages } = await agent.invoke({ messages: [thanks] }, thread);
    expectEqual(messages.at(-1).text, "Not at all.");
    await user.expectProviderGot("It is mild in Paris.");
  },

  async agent_structured(user) {
    const agent = createAgent({ model: chat(user), tools, responseFormat: providerStrategy(Weather) });
    const question = user.asksForJson("The weather of Paris?", MILD);
    const { structuredResponse } = await agent.invoke({ messages: [new HumanMessage(question)] });
    expectEqual(structuredResponse, MILD);
  },

  async empty_held(user) {
    await chat(user).invoke(user.asksForNothing());
  },

  async empty_streamed(user) {
    await collect(await chat(user).stream(user.asksForNothing()));
  },
};
