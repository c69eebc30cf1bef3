/**
 * Client of Persona Chat Engine: `POST /ask`, as one answer or as a stream.
 *
 * One file without dependencies, for Node 20 or newer: copy it into your game server, and
 * `types.d.ts` with it where an editor or `tsc` should know the shapes.
 *
 *     const persona = new PersonaClient({ baseUrl: 'http://localhost:8000' });
 *     for await (const event of persona.askStream({ npc_id: 'sora', player_id: 'p1', text })) {
 *       if (event.type === 'state') applyOnce(event.turn_id, event.delta, event.flags);
 *       if (event.type === 'token') show(event.text);
 *     }
 */

/** @typedef {import('./types.d.ts').AskRequest} AskRequest */
/** @typedef {import('./types.d.ts').Answer} Answer */
/** @typedef {import('./types.d.ts').StateEvent} StateEvent */
/** @typedef {import('./types.d.ts').NpcEntry} NpcEntry */

/**
 * What a stream brings: one `state`, then `token`s whose texts add up to the line, then `done`.
 * @typedef {{ type: 'state' } & StateEvent} StateTurnEvent
 * @typedef {{ type: 'token', text: string }} TokenTurnEvent
 * @typedef {{ type: 'done', answer: Answer }} DoneTurnEvent
 * @typedef {StateTurnEvent | TokenTurnEvent | DoneTurnEvent} TurnEvent
 */

/**
 * @typedef {object} ClientOptions
 * @property {string} baseUrl Where the server is, e.g. `http://localhost:8000`.
 * @property {string} [apiKey] Sent as `Authorization: Bearer`.
 * @property {number} [deadlineMs] Time for the server to finish a line; after it an authored line
 *   comes instead. 20 s unless given.
 * @property {number} [timeoutMs] Time for a turn with all its retries. 45 s unless given.
 * @property {number} [maxRetries] 4 unless given.
 * @property {number} [backoffMs] The first pause, doubled each time. 250 ms unless given.
 */

/**
 * @typedef {object} TurnOptions
 * @property {string} [idempotencyKey] One for each turn; made here unless given. Give your own to
 *   ask for a turn again after your process was killed.
 * @property {string} [requestId] Shown in the logs of the server.
 * @property {AbortSignal} [signal] Ends the call with its reason.
 * @property {number} [deadlineMs]
 * @property {number} [timeoutMs]
 */

const RETRIED_STATUSES = new Set([429, 502, 503, 504]);
const RETRIED_CODES = new Set(['connection_failed']);

/**
 * Anything that keeps a turn from being answered. `code` is the server's (`unknown_npc`,
 * `rate_limited`, …) or one of ours: `connection_failed`, `timeout`, `bad_answer`, `http_error`
 * (no problem+json came with the status), `turn_lost` (a stream broke off after its `state` and
 * the server no longer knows the turn).
 */
export class PersonaError extends Error {
  /**
   * @param {string} code
   * @param {string} detail
   * @param {{ status?: number, field?: string, retryAfterMs?: number, requestId?: string,
   *   cause?: unknown }} [facts]
   */
  constructor(code, detail, facts = {}) {
    super(`${code}: ${detail}`, { cause: facts.cause });
    this.name = 'PersonaError';
    this.code = code;
    this.status = facts.status;
    /** On 422: the JSON path of the value that is wrong. */
    this.field = facts.field;
    this.retryAfterMs = facts.retryAfterMs;
    this.requestId = facts.requestId;
  }

  get isRetryable() {
    return RETRIED_CODES.has(this.code) || RETRIED_STATUSES.has(this.status ?? 0);
  }
}

export class PersonaClient {
  #base;
  #options;

  /** @param {ClientOptions} options */
  constructor({ baseUrl, ...options }) {
    this.#base = new URL(baseUrl.endsWith('/') ? baseUrl : `${baseUrl}/`);
    this.#options = {
      deadlineMs: 20_000,
      timeoutMs: 45_000,
      maxRetries: 4,
      backoffMs: 250,
      ...withoutUndefined(options),
    };
  }

  /**
   * One turn, answered whole.
   * @param {AskRequest} request
   * @param {TurnOptions} [options]
   * @returns {Promise<Answer>}
   */
  async ask(request, options = {}) {
    const call = this.#turn(request, options, false);
    return call.retried((response) => response.json());
  }

  /**
   * One turn as it comes. `state` is final and comes once, also where the connection broke and the
   * stream was taken up again. Leaving the loop early hangs up, but the server finishes the turn
   * and remembers it; a `dialogue_history` without it, sent with the next, takes it back. Read to
   * its end, the stream leaves its connection to the next turn.
   * @param {AskRequest} request
   * @param {TurnOptions} [options]
   * @returns {AsyncGenerator<TurnEvent, void, void>}
   */
  async *askStream(request, options = {}) {
    const call = this.#turn(request, options, true);
    let turnId = '';
    let numTold = 0;
    for (;;) {
      let isDone = false;
      try {
        let num = 0;
        for await (const event of turnEvents(await call.send())) {
          if (isDone) continue; // a body read to its end keeps the connection
          if (event.type === 'state') turnId = sameTurn(turnId, event.turn_id);
          num += 1;
          if (num <= numTold) continue; // told before the connection broke
          numTold = num;
          yield event;
          isDone = event.type === 'done';
        }
        if (isDone) return;
        throw new PersonaError('connection_failed', 'the stream ended before its `done`');
      } catch (error) {
        if (isDone) return;
        await call.pauseAfter(error);
      }
    }
  }

  /**
   * The NPCs of the world that the server has loaded.
   * @param {TurnOptions} [options]
   * @returns {Promise<NpcEntry[]>}
   */
  async npcs(options = {}) {
    const call = new Call(
      new URL('npcs', this.#base),
      { headers: this.#headers(options) },
      {
        ...this.#options,
        ...withoutUndefined(options),
      },
    );
    return call.retried((response) => response.json());
  }

  /**
   * @param {AskRequest} request
   * @param {TurnOptions} options
   * @param {boolean} isStreamed
   */
  #turn(request, options, isStreamed) {
    const session = request.session_id ?? `${request.player_id}:${request.npc_id}`;
    const settings = { ...this.#options, ...withoutUndefined(options) };
    const headers = this.#headers(options);
    headers.set('Content-Type', 'application/json');
    headers.set('Accept', isStreamed ? 'text/event-stream' : 'application/json');
    headers.set('Idempotency-Key', options.idempotencyKey ?? crypto.randomUUID());
    headers.set('X-Deadline-Ms', String(settings.deadlineMs));
    // balancers keep a conversation on one server by this header; it holds printable ASCII only
    if (/^[\x21-\x7e]+$/.test(session)) headers.set('X-Session-ID', session);
    const body = JSON.stringify({ ...request, session_id: session, stream: isStreamed });
    return new Call(new URL('ask', this.#base), { method: 'POST', headers, body }, settings);
  }

  /** @param {TurnOptions} options */
  #headers({ requestId }) {
    const headers = new Headers({ 'X-Request-ID': requestId ?? crypto.randomUUID() });
    if (this.#options.apiKey) headers.set('Authorization', `Bearer ${this.#options.apiKey}`);
    return headers;
  }
}

/** One request with its retries: the same headers and body each time, one time limit for all. */
class Call {
  #numTries = 0;

  /**
   * @param {URL} url
   * @param {RequestInit & { headers: Headers }} request
   * @param {{ timeoutMs: number, maxRetries: number, backoffMs: number, signal?: AbortSignal }} settings
   */
  constructor(url, request, settings) {
    this.url = url;
    this.request = request;
    this.settings = settings;
    this.end = Date.now() + settings.timeoutMs;
    // kept here: any() holds it weakly, and once collected it never fires
    this.timeout = AbortSignal.timeout(settings.timeoutMs);
    const { signal } = settings;
    this.signal = signal ? AbortSignal.any([signal, this.timeout]) : this.timeout;
  }

  /**
   * What `read` makes of the response.
   * @template T
   * @param {(response: Response) => Promise<T>} read
   * @returns {Promise<T>}
   */
  async retried(read) {
    for (;;) {
      try {
        return await read(await this.send());
      } catch (error) {
        await this.pauseAfter(error);
      }
    }
  }

  /** Send it once; anything but a success is thrown. */
  async send() {
    this.#numTries += 1;
    const response = await fetch(this.url, { ...this.request, signal: this.signal });
    if (!response.ok) throw await problemOf(response);
    return response;
  }

  /**
   * Wait until it may be sent again. Throws where it may not.
   * @param {unknown} error
   */
  async pauseAfter(error) {
    const failure = this.#failure(error);
    const { maxRetries, backoffMs } = this.settings;
    if (!(failure instanceof PersonaError) || !failure.isRetryable) throw failure;
    if (this.#numTries > maxRetries) throw failure;
    const backoff = backoffMs * 2 ** (this.#numTries - 1) * (0.5 + Math.random() / 2);
    const pause = failure.retryAfterMs ?? backoff;
    if (Date.now() + pause >= this.end) throw failure;
    try {
      await sleep(pause, this.signal);
    } catch (reason) {
      throw this.#failure(reason);
    }
  }

  /** @param {unknown} error */
  #failure(error) {
    if (this.settings.signal?.aborted) return this.settings.signal.reason;
    const requestId = this.request.headers.get('X-Request-ID') ?? undefined;
    if (this.signal.aborted) {
      const detail = `no answer from ${this.url} in ${this.settings.timeoutMs} ms`;
      return new PersonaError('timeout', detail, { cause: error, requestId });
    }
    if (error instanceof PersonaError) return error;
    if (error instanceof SyntaxError) {
      const detail = `${this.url} answered with something that is not JSON: ${error.message}`;
      return new PersonaError('bad_answer', detail, { cause: error, requestId });
    }
    if (error instanceof TypeError) {
      const why = error.cause instanceof Error ? error.cause.message : error.message;
      const detail = `${this.url} cannot be reached or hung up (${why})`;
      return new PersonaError('connection_failed', detail, { cause: error, requestId });
    }
    return error;
  }
}

/**
 * Server-sent events out of bytes, cut anywhere: a character, a line end and an event may each be
 * split over chunks. An event that was not ended by an empty line is dropped, as the standard says.
 * @param {AsyncIterable<Uint8Array>} chunks
 * @returns {AsyncGenerator<{ event: string, data: string }, void, void>}
 */
export async function* parseEvents(chunks) {
  const decoder = new TextDecoder();
  let rest = '';
  let isAfterCr = false;
  let event = '';
  /** @type {string[]} */
  let data = [];
  for await (const chunk of chunks) {
    let text = decoder.decode(chunk, { stream: true });
    if (!text) continue;
    if (isAfterCr && text.startsWith('\n')) text = text.slice(1);
    isAfterCr = text.endsWith('\r');
    const lines = (rest + text).split(/\r\n|\r|\n/);
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line === '') {
        if (data.length) yield { event: event || 'message', data: data.join('\n') };
        event = '';
        data = [];
        continue;
      }
      const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line) ?? ['', '', ''];
      if (name === 'event') event = value;
      if (name === 'data') data.push(value);
    }
  }
}

/**
 * @param {Response} response
 * @returns {AsyncGenerator<TurnEvent, void, void>}
 */
async function* turnEvents(response) {
  if (!response.body) return;
  for await (const { event, data } of parseEvents(response.body)) {
    const content = JSON.parse(data);
    if (event === 'state') yield { type: 'state', ...content };
    if (event === 'token') yield { type: 'token', text: content.text };
    if (event === 'done') yield { type: 'done', answer: content };
    if (event === 'error') throw problemError(content, {});
  }
}

/**
 * @param {string} before
 * @param {string} now
 */
function sameTurn(before, now) {
  if (before && before !== now) {
    const detail = `the stream of turn ${before} broke off and the server began another, ${now}`;
    throw new PersonaError('turn_lost', `${detail}; do not apply that one`);
  }
  return now;
}

/** @param {Response} response */
async function problemOf(response) {
  const text = await response.text().catch(() => '');
  let problem;
  try {
    problem = JSON.parse(text);
  } catch {
    problem = null; // a proxy between us speaks HTML
  }
  return problemError(problem, {
    status: response.status,
    retryAfterMs: retryAfterMs(response.headers.get('Retry-After')),
    requestId: response.headers.get('X-Request-ID') ?? undefined,
  });
}

/**
 * @param {any} problem
 * @param {{ status?: number, retryAfterMs?: number, requestId?: string }} facts
 */
function problemError(problem, facts) {
  const code = typeof problem?.code === 'string' ? problem.code : 'http_error';
  const status = facts.status ?? problem?.status;
  const told = problem?.detail ?? problem?.title ?? `HTTP status ${status}`;
  const field = problem?.field;
  const detail = !field || told.includes(field) ? told : `${field}: ${told}`;
  return new PersonaError(code, detail, { ...facts, status, field });
}

/**
 * `Retry-After` as milliseconds: seconds or a date.
 * @param {string | null} value
 */
function retryAfterMs(value) {
  if (!value) return undefined;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop);
      resolve();
    }, ms);
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
  });
}

/**
 * @template {object} T
 * @param {T} options
 * @returns {T}
 */
function withoutUndefined(options) {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return /** @type {T} */ (Object.fromEntries(given));
}
