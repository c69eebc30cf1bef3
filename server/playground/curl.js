/** A turn as a curl command that a shell takes word for word. */

/** @param {string} text @returns {string} one word of a POSIX shell, whatever is in it */
export const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/**
 * The turn can be asked again anywhere: it carries what was said before, and has a session of its
 * own, so that it does not disturb the conversation on the page. The key stays in the environment.
 * @param {string} url
 * @param {any} body what was sent
 * @param {{player: string, npc: string}[]} history what was said before
 * @param {boolean} hasKey
 */
export function curlOf(url, body, history, hasKey) {
  const { stream: _, explain: __, ...rest } = body;
  const alone = { ...rest, session_id: `${body.session_id}-curl`, dialogue_history: history };
  const lines = [
    `curl -sS ${quoted(url)}`,
    ...(hasKey ? ['-H "Authorization: Bearer $PERSONA_API_KEY"'] : []),
    `-H ${quoted("Content-Type: application/json")}`,
    `--data-raw ${quoted(JSON.stringify(alone, null, 1))}`,
  ];
  return lines.join(" \\\n  ");
}
