// The chat: a conversation with a model through POST /v1/chat/completions, streamed.

import { byId, durationText, make, perSecond, plural, shortId, whole } from "./figures.js";

/** Longest answer that the chat asks for, tokens. */
const ANSWER_TOKENS_MAX = 512;

/* Key */

/** In memory only, and only after a 401. */
let apiKey = null;

export const authorization = () => (apiKey ? { authorization: `Bearer ${apiKey}` } : {});

/** Asks for a key; gives whether one was entered. */
export function askForKey() {
  const dialog = byId("key-dialog");
  return new Promise((resolve) => {
    byId("key").value = "";
    byId("key-wrong").hidden = apiKey === null;
    dialog.returnValue = "";
    byId("key-form").onsubmit = () => {
      apiKey = byId("key").value.trim();
      dialog.returnValue = "given";
    };
    byId("key-cancel").onclick = () => dialog.close();
    // A key that was refused is forgotten with the question.
    dialog.onclose = () => {
      if (dialog.returnValue === "") apiKey = null;
      resolve(dialog.returnValue !== "");
    };
    dialog.showModal();
  });
}

/** What an answer that is not 200 says. */
export async function faultOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `HTTP ${response.status}`;
  }
}

/* Chat */

let conversation = [];
let running = null;

export function showModels({ snapshot }) {
  const ready = snapshot.models.filter((model) => model.ready).map((model) => model.name);
  const select = byId("model");
  if (select.dataset.names !== JSON.stringify(ready)) {
    const chosen = select.value;
    select.replaceChildren(...ready.map((name) => make("option", { value: name }, name)));
    if (ready.includes(chosen)) select.value = chosen;
    select.dataset.names = JSON.stringify(ready);
    byId("model-label").hidden = ready.length < 2;
  }
  showComposer();
}

function showComposer() {
  byId("send").disabled = running !== null || !byId("model").value || !byId("prompt").value.trim();
  byId("send").hidden = running !== null;
  byId("stop").hidden = running === null;
  byId("clear").hidden = conversation.length === 0 && !byId("log").querySelector(".turn");
}

/** Appends a turn; the view follows the text while it was at the end. */
function makeTurn(role, text) {
  const said = document.createTextNode(text);
  const meta = make("p", { class: "meta" });
  const who = make("span", { class: "hidden" }, role === "user" ? "You: " : "Answer: ");
  const element = make("div", { class: "turn", "data-role": role }, make("p", { class: "said" }, who, said), meta);
  byId("log-empty").hidden = true;
  byId("log").append(element);
  byId("log").scrollTop = byId("log").scrollHeight;
  return { element, said, meta };
}

function follow(change) {
  const log = byId("log");
  const at_end = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  change();
  if (at_end) log.scrollTop = log.scrollHeight;
}

/** Data of each server-sent event of a response. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (buffer + value).replace(/\r\n/g, "\n").split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const lines = event.split("\n").filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

async function post(answer, model, signal) {
  const body = {
    model,
    messages: conversation,
    stream: true,
    stream_options: { include_usage: true },
    max_tokens: ANSWER_TOKENS_MAX,
    // As the printed curl line asks: the same question has the same answer, and a small model keeps to its subject.
    temperature: 0,
    nvext: { extra_fields: ["worker_id"] },
  };
  for (;;) {
    answer.started_at = performance.now();
    const headers = { "content-type": "application/json", ...authorization() };
    const response = await fetch("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
    if (response.status !== 401 || !(await askForKey())) return response;
  }
}

/** Takes one event of the stream into the answer. */
function take(answer, payload) {
  if (payload === "[DONE]") {
    answer.done = true;
    return;
  }
  const chunk = JSON.parse(payload);
  if (chunk.error) throw new Error(chunk.error.message);
  // An instance id has 64 bits, more than a JavaScript number holds: it is read as text.
  const worker = payload.match(/[^\\]"decode_worker_id":(\d+)/)?.[1];
  if (worker && answer.workers[answer.workers.length - 1] !== worker) answer.workers.push(worker);
  const choice = chunk.choices?.[0];
  if (choice?.delta?.content) {
    answer.last_at = performance.now();
    answer.first_at ??= answer.last_at;
    answer.turn.said.appendData(choice.delta.content);
  }
  answer.finish = choice?.finish_reason ?? answer.finish;
  answer.usage = chunk.usage ?? answer.usage;
}

const hexOf = (id) => BigInt(id).toString(16);

function showMeta(answer) {
  const parts = [];
  const fact = (name, text, title) => parts.push(make("span", { "data-answer": name, title: title ?? "" }, text));
  if (answer.workers.length) {
    const ids = answer.workers.map(hexOf);
    fact("worker", `worker ${ids.map(shortId).join(" → ")}`, ids.join(" → "));
    parts[0].dataset.workers = ids.join(" ");
  }
  if (answer.first_at) fact("ttft", `first token ${durationText((answer.first_at - answer.started_at) / 1000)}`);
  const tokens = answer.usage?.completion_tokens;
  const seconds = (answer.last_at - answer.first_at) / 1000;
  if (tokens > 1 && seconds > 0) fact("rate", `${perSecond((tokens - 1) / seconds)} tokens/s`);
  if (tokens !== undefined) fact("tokens", plural(tokens, "token"));
  const cached = answer.usage?.prompt_tokens_details?.cached_tokens;
  if (cached) fact("cached", `${whole(cached)} of ${whole(answer.usage.prompt_tokens)} prompt tokens cached`);
  if (answer.stopped) fact("end", "stopped");
  else if (answer.finish === "length") fact("end", "cut at its length limit");
  answer.turn.meta.replaceChildren(...parts);
}

async function stream(answer, model) {
  const response = await post(answer, model, running.signal);
  if (!response.ok) throw new Error(await faultOf(response));
  for await (const payload of eventsOf(response)) {
    follow(() => {
      take(answer, payload);
      showMeta(answer);
    });
  }
  if (!answer.done) throw new Error("The stream broke off before its end.");
}

async function send() {
  const text = byId("prompt").value.trim();
  const model = byId("model").value;
  if (!text || !model || running) return;
  running = new AbortController();
  byId("prompt").value = "";
  makeTurn("user", text);
  conversation.push({ role: "user", content: text });
  const turn = makeTurn("assistant", "");
  const answer = { turn, workers: [], started_at: null, first_at: null, last_at: null, usage: null };
  turn.element.dataset.state = "streaming";
  byId("log").setAttribute("aria-busy", "true");
  showComposer();
  try {
    await stream(answer, model);
  } catch (error) {
    answer.stopped = error.name === "AbortError";
    const fault = error.name === "TypeError" ? "The frontend cannot be reached." : error.message;
    if (!answer.stopped) follow(() => turn.element.append(make("p", { class: "fault", role: "alert" }, fault)));
    turn.element.dataset.fault = answer.stopped ? "" : error.message;
  }
  turn.element.dataset.state = "done";
  follow(() => showMeta(answer));
  closeTurn(text, turn.said.data);
}

/** Puts the turn into the conversation, or the question back into the box if nothing came. */
function closeTurn(question, answered) {
  if (answered) {
    conversation.push({ role: "assistant", content: answered });
  } else {
    conversation.pop();
    byId("prompt").value ||= question;
  }
  running = null;
  byId("log").removeAttribute("aria-busy");
  showComposer();
  byId("prompt").focus();
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
byId("prompt").addEventListener("input", showComposer);
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", () => {
  running?.abort();
  conversation = [];
  for (const turn of byId("log").querySelectorAll(".turn")) turn.remove();
  byId("log-empty").hidden = false;
  showComposer();
  byId("prompt").focus();
});
