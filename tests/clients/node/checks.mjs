// The official Node client, unchanged, against a gateway: one JSON line, check name → "ok" or what went wrong.
// Reads BASE_URL, CONTROL_URL, KEY, LIMITED_KEY (another model's), VERSION (an exact version that KEY, of role `app`, may not pin).
import OpenAI from "openai";
import assert from "node:assert/strict";

const { BASE_URL, CONTROL_URL, KEY, LIMITED_KEY, VERSION } = process.env;
const options = { baseURL: `${BASE_URL}/v1`, maxRetries: 0 };
const client = new OpenAI({ ...options, apiKey: KEY });
const messages = [{ role: "user", content: "hello" }];
const ask = { model: "base", messages };
const schema = { type: "object", properties: { city: { type: "string" }, size: { type: "integer" } } };
const tools = [{ type: "function", function: { name: "weather", parameters: schema } }];

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const textOf = (chunks, index = 0) =>
  chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.index === index)
    .map((choice) => choice.delta.content ?? "").join("");

async function refused(promise, kind, expected) {
  const error = await promise.then(() => assert.fail("was not refused"), (error) => error);
  assert.ok(error instanceof kind, `${error?.constructor?.name}: ${error?.message}`);
  for (const [name, value] of Object.entries(expected)) assert.equal(error[name], value, name);
  if (error.status) assert.ok(error.requestID, "has a request id");
  return error;
}

const checks = {
  async chat() {
    const reply = await client.chat.completions.create(ask);
    assert.ok(reply.choices[0].message.content);
    assert.equal(reply.usage.completion_tokens, 16);
    assert.ok(reply._request_id);
  },
  async alias() {
    const { data, response } = await client.chat.completions.create({ ...ask, model: "support" }).withResponse();
    assert.match(response.headers.get("x-loragate-version"), /^support@[0-9a-f]{12}$/);
    assert.equal(data.model, response.headers.get("x-loragate-version"));
  },
  async completionOfTokens() {
    const prompt = [...Buffer.from("to be scored")];
    const reply = await client.completions.create({ model: "base", prompt, echo: true, logprobs: 2, max_tokens: 1, n: 2 });
    assert.equal(reply.choices.length, 2);
    assert.equal(reply.choices[0].logprobs.tokens.slice(0, prompt.length).join(""), "to be scored");
  },
  async stream() {
    const whole = await client.chat.completions.create({ ...ask, seed: 3 });
    const chunks = await all(await client.chat.completions.create({ ...ask, seed: 3, stream: true }));
    assert.equal(textOf(chunks), whole.choices[0].message.content);
    assert.ok(chunks.every((chunk) => chunk.choices.length && !chunk.usage));
  },
  async streamWithUsage() {
    const chunks = await all(
      await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }),
    );
    assert.equal(chunks.at(-1).usage.completion_tokens, 16);
    assert.equal(chunks.filter((chunk) => chunk.usage).length, 1);
  },
  async streamOfTwo() {
    const chunks = await all(await client.chat.completions.create({ ...ask, stream: true, n: 2 }));
    assert.ok(textOf(chunks, 0) && textOf(chunks, 1));
    assert.notEqual(textOf(chunks, 0), textOf(chunks, 1));
  },
  async logprobs() {
    const reply = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 3 });
    assert.equal(reply.choices[0].logprobs.content[0].top_logprobs.length, 3);
  },
  async tools() {
    const reply = await client.chat.completions.create({ ...ask, tools });
    const call = reply.choices[0].message.tool_calls[0].function;
    assert.equal(call.name, "weather");
    assert.deepEqual(JSON.parse(call.arguments), { city: "fake", size: 1 });
  },
  async toolsStreamed() {
    const reply = await client.chat.completions.stream({ ...ask, tools }).finalChatCompletion();
    assert.deepEqual(JSON.parse(reply.choices[0].message.tool_calls[0].function.arguments), { city: "fake", size: 1 });
  },
  async schema() {
    const response_format = { type: "json_schema", json_schema: { name: "city", strict: true, schema } };
    const reply = await client.chat.completions.parse({ ...ask, response_format });
    assert.deepEqual(reply.choices[0].message.parsed ?? JSON.parse(reply.choices[0].message.content), { city: "fake", size: 1 });
  },
  async models() {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert.deepEqual(names, ["base", "support"]);
    assert.equal((await client.models.retrieve("support")).parent, "base");
  },
  async responses() {
    const reply = await client.responses.create({ model: "base", input: "hello" });
    assert.ok(reply.output_text);
    const events = await all(await client.responses.create({ model: "base", input: "hello", stream: true }));
    assert.equal(events.at(-1).type, "response.completed");
    const text = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
    assert.equal(text, reply.output_text);
  },
  async embeddings() {
    const reply = await client.embeddings.create({ model: "base", input: ["one", "two"] });
    assert.equal(reply.data.length, 2);
    assert.ok(reply.data[0].embedding.length > 0);
  },
  async abortedStream() {
    const stream = await client.chat.completions.create({ ...ask, stream: true, fake: { events: 1000, cadence_ms: 10 } });
    for await (const _ of stream) break; // leaving the loop aborts
    const inFlight = async () => {
      const text = await (await fetch(`${CONTROL_URL}/metrics`)).text();
      return text.split("\n").filter((line) => line.startsWith("loragate_requests_in_flight{") && !line.endsWith(" 0.0"));
    };
    const deadline = Date.now() + 1000; // the engine is freed within a second
    while ((await inFlight()).length) assert.ok(Date.now() < deadline, "the engine still works on an aborted stream");
  },
  async wrongKey() {
    const stranger = new OpenAI({ ...options, apiKey: "sk-loragate-wrong" });
    await refused(stranger.models.list(), OpenAI.AuthenticationError, { status: 401, code: "invalid_api_key" });
  },
  async otherModelsKey() {
    const limited = new OpenAI({ ...options, apiKey: LIMITED_KEY });
    await refused(limited.chat.completions.create(ask), OpenAI.NotFoundError,
      { status: 404, code: "model_not_found", param: "model", type: "invalid_request_error" });
  },
  async pinWithoutTheRole() {
    await refused(client.chat.completions.create({ ...ask, model: VERSION }), OpenAI.PermissionDeniedError,
      { status: 403, code: "pin_not_allowed" });
  },
  async unknownModel() {
    await refused(client.chat.completions.create({ ...ask, model: "nobody" }), OpenAI.NotFoundError,
      { status: 404, code: "model_not_found", param: "model", type: "invalid_request_error" });
  },
  async missingModel() {
    await refused(client.chat.completions.create({ messages }), OpenAI.BadRequestError, { status: 400, param: "model" });
  },
  async tooLarge() {
    const content = "x".repeat(200_000);
    await refused(client.chat.completions.create({ ...ask, messages: [{ role: "user", content }] }), OpenAI.APIError,
      { status: 413, code: "request_too_large" });
  },
  async rateLimit() {
    const error = await refused(client.chat.completions.create({ ...ask, fake: { status: 429, retry_after: 7 } }),
      OpenAI.RateLimitError, { status: 429 });
    assert.equal(error.headers.get("retry-after"), "7");
  },
  async engineFails() {
    await refused(client.chat.completions.create({ ...ask, fake: { status: 500 } }), OpenAI.InternalServerError, { status: 500 });
  },
  async engineHangs() {
    await refused(client.chat.completions.create({ ...ask, fake: { hang: true } }), OpenAI.InternalServerError,
      { status: 504, code: "engine_timeout" });
  },
  async brokenStream() {
    const stream = await client.chat.completions.create({ ...ask, stream: true, fake: { cut_after: 3, cut: "reset" } });
    await refused(all(stream), OpenAI.APIError, { code: "engine_failed", type: "server_error" });
  },
  async nobodyListens() {
    const lost = new OpenAI({ baseURL: "http://127.0.0.1:9/v1", apiKey: "x", maxRetries: 0 });
    await refused(lost.models.list(), OpenAI.APIConnectionError, {});
  },
  async clientTimesOut() {
    const hasty = new OpenAI({ ...options, apiKey: KEY, timeout: 300 });
    await refused(hasty.chat.completions.create({ ...ask, fake: { header_delay_ms: 1500 } }), OpenAI.APIConnectionTimeoutError, {});
  },
};

const outcome = {};
for (const [name, check] of Object.entries(checks)) {
  outcome[name] = await check().then(() => "ok", (error) => String(error?.stack ?? error));
}
console.log(JSON.stringify(outcome));
