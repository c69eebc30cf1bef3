/** Server-sent events from the body of a fetch (EventSource can neither POST nor send a key). */

/**
 * @typedef {{name: string, data: string}} ServerEvent
 */

/** Feed it text as it comes; it gives the events that are complete. */
export class EventParser {
  #rest = "";

  /**
   * @param {string} text
   * @returns {ServerEvent[]}
   */
  push(text) {
    this.#rest += text;
    // a lone \r at the end may be the first half of \r\n
    const whole = this.#rest.endsWith("\r") ? this.#rest.slice(0, -1) : this.#rest;
    const blocks = whole.replace(/\r\n?/g, "\n").split("\n\n");
    this.#rest = blocks.pop() + this.#rest.slice(whole.length);
    return blocks.flatMap((block) => readBlock(block));
  }
}

/**
 * @param {string} block
 * @returns {ServerEvent[]} one, or none for a block of comments
 */
function readBlock(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (field === "event") name = value;
    if (field === "data") data.push(value);
  }
  return data.length ? [{ name, data: data.join("\n") }] : [];
}

/**
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<ServerEvent>}
 */
export async function* readEvents(body) {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.releaseLock();
  }
}
