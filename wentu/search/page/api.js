// The service: every request goes through here, and every failure becomes one of few kinds.

import { tag } from "./words.js";

const BASE = "api/v1/";

/** Why a request failed.
 *
 * kind: "gone" (no answer), "token" (who are you?), "unready" (no release), "busy" (wait `wait`
 * seconds), "changed" (the model), "large" (a file) or "refused" (`message` says why).
 */
export class Failure extends Error {
  constructor(kind, message = "", wait = 0) {
    super(message);
    this.kind = kind;
    this.wait = wait;
  }
}

/** Is this the end of a request that nobody waits for any more? */
export const aborted = (error) => error?.name === "AbortError";

async function failure(answer) {
  let said = "";
  try {
    said = (await answer.json()).error || "";
  } catch {
    // not ours: that of a proxy, say
  }
  const wait = Number.parseInt(answer.headers.get("retry-after"), 10) || 2;
  if (answer.status === 401) return new Failure("token", said);
  if (answer.status === 409) return new Failure("changed", said);
  if (answer.status === 413) return new Failure("large", said);
  if (answer.status === 429) return new Failure("busy", said, wait);
  if (answer.status === 503 && !(await ready())) return new Failure("unready", said, wait);
  if (answer.status === 503) return new Failure("busy", said, wait);
  if (answer.status >= 500 && !said) return new Failure("gone");
  return new Failure("refused", said || `HTTP ${answer.status}`);
}

async function ask(address, given = {}) {
  const headers = { "Accept-Language": tag(), ...given.headers };
  let answer;
  try {
    answer = await fetch(address, { ...given, headers, credentials: "same-origin" });
  } catch (error) {
    if (aborted(error)) throw error;
    throw new Failure("gone");
  }
  if (!answer.ok) throw await failure(answer);
  return answer;
}

/** What an answer holds. One that broke off, or that is no JSON (a proxy's page to log in), is none
 * of the service's. */
async function read(answer) {
  try {
    return await answer.json();
  } catch (error) {
    if (aborted(error)) throw error;
    throw new Failure("gone");
  }
}

/** JSON from an address below the API. */
export async function get(path, signal) {
  return read(await ask(BASE + path, { signal }));
}

/** A page of hits for a JSON body or a form. */
export async function search(asked, signal) {
  const form = asked instanceof FormData;
  const answer = await ask(`${BASE}search${form ? "/picture" : ""}`, {
    method: "POST",
    body: form ? asked : JSON.stringify(asked),
    headers: form ? {} : { "Content-Type": "application/json" },
    signal,
  });
  return read(answer);
}

/** Show the token once; a cookie stands for it from then on. */
export async function enter(token) {
  await ask(`${BASE}session`, { method: "POST", headers: { Authorization: `Bearer ${token}` } });
}

/** Is a release served? Failure("gone") where nobody answers. */
export async function ready() {
  try {
    const answer = await fetch("readyz", { cache: "no-store" });
    return Boolean((await answer.json()).ready);
  } catch {
    throw new Failure("gone");
  }
}

export const thumbnail = (id) => `${BASE}pictures/${id}/thumbnail`;
export const original = (id) => `${BASE}pictures/${id}/original`;
