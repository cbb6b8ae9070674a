// What this page knows of its server: addresses, the key where one is asked for, requests and their problems.

const KEY = "ordertape-key";

/** Events: `refused`, when a key is wanted or was wrong; `key`, when another is given. */
export const session = new EventTarget();

/** @returns {string|undefined} */
export function getKey() {
  return sessionStorage.getItem(KEY) ?? undefined;
}

/** @param {string} key */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
  session.dispatchEvent(new Event("key"));
}

/** Whether a problem or an end of following is about the key. @param {any} error */
export function isAboutKey({ status, code, closeCode }) {
  return status === 401 || closeCode === 4401 || code === "unauthenticated";
}

export function askForKey() {
  session.dispatchEvent(new Event("refused"));
}

export function socketUrl() {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/orders/ws`;
}

/** The server's problem (RFC 9457), or none of its words: `status` 0. */
export class ProblemError extends Error {
  /** @param {any} problem */
  constructor(problem) {
    super(problem.detail);
    this.status = problem.status;
    this.code = problem.code;
    /** @type {{pointer: string, message: string}[]} */
    this.errors = problem.errors ?? [];
  }
}

/** @param {string} method @param {string} path @param {object} [body] @param {Record<string, string>} [more] headers */
export async function request(method, path, body, more = {}) {
  const key = getKey();
  /** @type {Record<string, string>} */
  const headers = { ...more, ...(key && { Authorization: `Bearer ${key}` }), ...(body && { "Content-Type": "application/json" }) };
  let response, answer;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    answer = await response.json();
  } catch {
    throw new ProblemError({ status: 0, detail: "The server does not answer. Nothing is known to be lost: try again." });
  }
  if (response.ok) return answer;
  const problem = new ProblemError({ detail: response.statusText, ...answer, status: response.status });
  if (isAboutKey(problem)) askForKey();
  throw problem;
}
