/** Speaks with the server: the NPCs, and one turn as a stream of events. */

import { apiKey } from "./kept.js";
import { readEvents } from "./sse.js";

/** What went wrong; `code` is the server's stable one, or `unreachable` or `cut`. */
export class Problem extends Error {
  /**
   * @param {string} code
   * @param {{status?: number, detail?: string, field?: string, retryAfter?: string | null}} [more]
   */
  constructor(code, more = {}) {
    super(more.detail || code);
    this.code = code;
    this.status = more.status ?? 0;
    this.detail = more.detail ?? "";
    this.field = more.field ?? "";
    this.retryAfter = more.retryAfter ?? "";
  }
}

/** @returns {Promise<any[]>} the entries of `GET /npcs` */
export async function getNpcs() {
  return (await request("npcs", {})).json();
}

/**
 * The events of one turn, in order: state, token…, done. Throws a Problem: the server's, also where
 * it ends a stream, or one of ours.
 * @param {any} body
 * @param {{idempotencyKey: string, signal: AbortSignal}} options
 * @returns {AsyncGenerator<{name: string, data: any}>}
 */
export async function* ask(body, { idempotencyKey, signal }) {
  const response = await request("ask", {
    method: "POST",
    body: JSON.stringify(body),
    signal,
    headers: {
      "Content-Type": "application/json",
      Accept: "text/event-stream",
      "Idempotency-Key": idempotencyKey,
      "X-Session-ID": body.session_id,
    },
  });
  if (!isStream(response) || !response.body) {
    yield* asEvents(await response.json());
    return;
  }
  let isDone = false;
  try {
    for await (const { name, data } of readEvents(response.body)) {
      const told = JSON.parse(data);
      if (name === "error") throw new Problem(told.code, told);
      isDone = name === "done";
      yield { name, data: told };
    }
  } catch (error) {
    if (error instanceof Problem || isAbort(error)) throw error;
    throw new Problem("cut", { detail: String(error) });
  }
  if (!isDone) throw new Problem("cut");
}

/** @param {unknown} error */
export const isAbort = (error) => error instanceof DOMException && error.name === "AbortError";

/** @param {Response} response */
function isStream(response) {
  return (response.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
}

/** A retried turn may be answered at once and whole. @param {any} answer */
function* asEvents(answer) {
  const { turn_id, flags_detail } = answer.meta;
  const { delta, flags, text } = answer;
  yield { name: "state", data: { turn_id, delta, flags, flags_detail } };
  yield { name: "token", data: { text } };
  yield { name: "done", data: answer };
}

/**
 * @param {string} path
 * @param {any} init
 * @returns {Promise<Response>}
 */
async function request(path, init) {
  const key = apiKey();
  const headers = { ...init.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (error) {
    throw isAbort(error) ? error : new Problem("unreachable", { detail: String(error) });
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** @param {Response} response */
async function problemOf(response) {
  const told = await response.json().catch(() => ({}));
  return new Problem(told.code ?? `http_${response.status}`, {
    status: response.status,
    detail: told.detail,
    field: told.field,
    retryAfter: response.headers.get("Retry-After"),
  });
}
