// Follows orders' events over as many connections as it takes: each event once, in order, or an error that says why not.
// For browsers and Node; nothing else is needed. What goes over the wire: docs/protocol.md. How to use it: docs/clients.md.

import { Progress } from "./progress.js";

/**
 * @typedef {import("./progress.js").Wanted} Wanted
 *
 * @typedef {object} Store Where the cursor of what was processed last outlives this page.
 * @property {() => string|null|Promise<string|null>} load
 * @property {(cursor: string|null) => void|Promise<void>} save null: forget it
 *
 * @typedef {object} State
 * @property {"connecting"|"replaying"|"live"|"waiting"|"closed"} state
 * @property {boolean} [resumed] live: not on the first connection
 * @property {number} [recovered] live: new events that came first
 * @property {string} [reason] waiting: why the connection was lost
 * @property {number} [retryInMs] waiting
 *
 * @typedef {object} Options
 * @property {any} [WebSocket] the implementation; by default the global one
 * @property {string} [token] @property {() => string|undefined|Promise<string|undefined>} [getToken] asked before each connection
 * @property {Store} [store] says where to begin, unless `after` is given
 * @property {(state: State) => void} [onState]
 * @property {number} [tries] connections in a row that bring nothing new; then `unreachable`
 * @property {number} [window] events that may wait here for the application
 * @property {() => number} [random] 0 to 1
 * @property {number} [silenceMs] by default twice the server's heartbeat and 5 s
 * @property {number} [backOffMs] @property {number} [backOffMsMax] @property {number} [connectMs]
 *
 * @typedef {{code: number, reason: string, waitMs?: number}} Loss
 */

/** Statuses of orders that have ended. */
export const ENDED = new Set(["confirmed", "cancelled", "expired", "rejected", "failed"]);

const SUB = "follow";
const FRAME_TOO_BIG = 1009;
const LOST = 1006;
const SILENCE_MS = 35_000;
const DEFAULTS = { tries: 10, window: 512, random: Math.random, connectMs: 10_000, backOffMs: 250, backOffMsMax: 20_000 };
// The server's own trouble, or too much at once: it passes.
const PASSING = new Set(["unavailable", "internal", "rate_limited"]);
const ADVICE = new Map([
  ["fork", "forget the events after lastCommon, all of them if it is null; then follow again with `resume`"],
  ["truncated", "forget the order; then follow again with `resume`"],
  ["cursor_unavailable", "forget what you have, as not all that followed can be had; then follow again with `resume`"],
]);

/**
 * Why following has ended. `code` is the server's, or "sent_away" (`closeCode` 44xx or 1009: do not come back unchanged),
 * "gap" (`orderId`, `expected`, `seq`: an event is missing, also at a second look), or "unreachable".
 */
export class FollowError extends Error {
  /** @type {any} the server's message */
  problem;
  /** @type {Partial<Wanted>|undefined} what to follow with instead of the start that was asked for */
  resume;

  /** @param {string} code @param {string} message @param {object} [facts] */
  constructor(code, message, facts = {}) {
    super(message);
    this.name = "FollowError";
    this.code = code;
    this.advice = ADVICE.get(code);
    Object.assign(this, facts);
  }
}

/**
 * Follow orders; begins at once. Iterate the answer by `for await`, or call its `forEach`.
 * @param {string} url such as ws://127.0.0.1:3000/api/orders/ws
 * @param {Wanted} wanted @param {Options} [options]
 */
export function follow(url, wanted, options = {}) {
  return new Following(url, wanted, options);
}

/** A store in `localStorage` or `sessionStorage`. @param {Storage} storage @param {string} name @returns {Store} */
export function storedIn(storage, name) {
  const save = (/** @type {string|null} */ cursor) =>
    cursor === null ? storage.removeItem(name) : storage.setItem(name, cursor);
  return { load: () => storage.getItem(name), save };
}

/** See {@link follow}. */
export class Following {
  #url;
  #options;
  #progress;
  /** @type {any[]} what the connection brought and the application has not taken */
  #queue = [];
  /** @type {string|undefined} of what the application works on */
  #taken;
  /** @type {(() => void)|undefined} ends the application's wait */
  #wake;
  /** @type {((loss: Loss) => void)|undefined} ends the connection */
  #end;
  /** @type {(() => void)|undefined} ends the wait between two connections */
  #hurry;
  /** @type {any} */
  #socket;
  /** @type {unknown} */
  #failure;
  /** @type {{clientId: string|null, roles: string[]}|undefined} who the server says this is, where it asks for keys */
  principal;
  #isOver = false;
  #connections = 0;
  #failures = 0;
  #recovered = 0;
  #unacknowledged = 0;
  #holdMs = 0;
  #gap = "";

  /** @param {string} url @param {Wanted} wanted @param {Options} options */
  constructor(url, wanted, options) {
    this.#url = url;
    this.#options = { ...DEFAULTS, ...options };
    this.#progress = new Progress(wanted);
    this.#run().catch((error) => this.#fail(error));
  }

  /** The cursor of what the application took last: what to resume by. */
  get cursor() {
    return this.#progress.cursor;
  }

  /** End. What waits here is dropped. Idempotent. */
  close() {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#queue = [];
    this.#say({ state: "closed" });
    this.#end?.({ code: 1000, reason: "closed" });
    this.#hurry?.();
    this.#wake?.();
  }

  /** Lose the connection on purpose, stay away for so long at least, resume. @param {number} [holdMs] */
  drop(holdMs = 0) {
    this.#holdMs = holdMs;
    this.#end?.({ code: LOST, reason: "dropped on purpose" });
  }

  /** Call `act` with each item, one after the other; settles as following ends. @param {(item: any) => unknown} act */
  async forEach(act) {
    for await (const item of this) await act(item);
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** The next event, or snapshot; the one before counts as processed. @returns {Promise<IteratorResult<any, undefined>>} */
  async next() {
    for (;;) {
      if (this.#taken !== undefined) {
        const cursor = this.#taken;
        this.#taken = undefined;
        await this.#options.store?.save(cursor);
      }
      if (this.#queue.length) {
        const value = this.#take(this.#queue.shift());
        if (value !== undefined) return { value, done: false };
      } else if (this.#isOver) {
        const failure = this.#failure;
        this.#failure = undefined;
        if (failure !== undefined) throw failure;
        return { value: undefined, done: true };
      } else {
        await /** @type {Promise<void>} */ (new Promise((resolve) => (this.#wake = resolve)));
      }
    }
  }

  /** What `for await` calls when it is left. @returns {Promise<IteratorResult<any, undefined>>} */
  async return() {
    this.close();
    return { value: undefined, done: true };
  }

  async #run() {
    const { store, tries, random, backOffMs, backOffMsMax } = this.#options;
    const stored = this.#progress.cursor === undefined && (await store?.load());
    if (stored) this.#progress.moveTo(stored);
    while (!this.#isOver) {
      this.#say({ state: "connecting" });
      const token = this.#options.token ?? (await this.#options.getToken?.());
      if (this.#isOver) return;
      const { code, reason, waitMs = 0 } = await this.#connection(token);
      if (this.#isOver) return;
      if ((code >= 4400 && code < 4500) || code === FRAME_TOO_BIG)
        throw new FollowError("sent_away", `the server closed with ${code}: ${reason}`, { closeCode: code });
      this.#failures += 1;
      if (this.#failures >= tries) throw new FollowError("unreachable", `cannot follow at ${this.#url}: ${reason}`);
      // Full jitter: clients that lost one server together do not come back together.
      const spread = random() * Math.min(backOffMsMax, backOffMs * 2 ** this.#failures);
      const retryInMs = Math.max(waitMs, this.#holdMs) + spread;
      this.#holdMs = 0;
      this.#say({ state: "waiting", reason, retryInMs });
      await this.#pause(retryInMs);
    }
  }

  /** Hold one connection; tell how it ended. @param {string|undefined} token @returns {Promise<Loss>} */
  #connection(token) {
    return new Promise((resolve) => {
      const socket = new (this.#options.WebSocket ?? globalThis.WebSocket)(this.#url);
      let silenceMs = this.#options.silenceMs ?? SILENCE_MS;
      /** @type {ReturnType<typeof setTimeout>|undefined} */
      let timer;
      /** @type {Loss|undefined} what `goaway` said */
      let leave;
      const end = (/** @type {Loss} */ loss) => {
        if (this.#end !== end) return;
        this.#socket = this.#end = undefined;
        clearTimeout(timer);
        // The close itself may be long in coming, so nobody waits for it.
        socket.close();
        resolve(loss.code === LOST && leave ? leave : { ...loss, waitMs: loss.waitMs ?? leave?.waitMs });
      };
      const listen = (/** @type {number} */ ms) => {
        clearTimeout(timer);
        timer = setTimeout(() => end({ code: LOST, reason: `no word from the server for ${ms} ms` }), ms);
      };
      this.#socket = socket;
      this.#end = end;
      listen(this.#options.connectMs);
      socket.onopen = () => this.#end === end && this.#open(token);
      socket.onmessage = (/** @type {any} */ { data }) => {
        if (this.#end !== end) return;
        const frame = parsed(data);
        if (frame?.type === "welcome") {
          silenceMs = this.#options.silenceMs ?? 2 * frame.heartbeatMs + 5_000;
          this.principal = frame.principal;
        }
        if (frame?.type === "goaway") leave = { code: frame.code, reason: frame.reason, waitMs: frame.reconnectAfterMs };
        listen(silenceMs);
        if (frame) this.#hear(frame);
        else end({ code: LOST, reason: "the server sent what is no JSON object" });
      };
      // A close follows.
      socket.onerror = () => {};
      socket.onclose = (/** @type {any} */ { code, reason }) => end({ code, reason: reason || "the connection was lost" });
    });
  }

  /** @param {string|undefined} token */
  #open(token) {
    // What the application has not taken comes again, unless it did not last.
    this.#queue = [];
    this.#connections += 1;
    this.#recovered = this.#unacknowledged = 0;
    const { window } = this.#options;
    this.#send({ type: "hello", token });
    this.#send({ type: "subscribe", sub: SUB, window, batch: Math.min(100, window), ...this.#progress.subscribe });
  }

  /** @param {any} frame */
  #hear(frame) {
    const last = this.#queue.at(-1);
    if (frame.type === "error") {
      this.#refused(frame);
    } else if (frame.type === "bookmark" || frame.type === "heartbeat") {
      this.#failures = 0;
      if (frame.type === "bookmark" && last?.type === "bookmark") last.cursor = frame.cursor;
      else if (frame.type === "bookmark") this.#queue.push(frame);
    } else if (frame.type === "goaway" && frame.cursors?.[SUB]) {
      this.#queue.push({ type: "bookmark", cursor: frame.cursors[SUB] });
    } else if (frame.type === "subscribed" || frame.type === "caught_up" || frame.type === "unsubscribed") {
      if (frame.type === "subscribed") this.#say({ state: "replaying" });
      this.#queue.push(frame);
    } else {
      for (const event of frame.type === "events" ? frame.items : "event" in frame ? [frame] : []) {
        if (this.#progress.isNew(event)) this.#failures = 0;
        this.#queue.push(event);
      }
    }
    // Messages beside events wait here, too, but never more of them than that.
    if (this.#queue.length > 2 * this.#options.window + 8)
      this.#end?.({ code: LOST, reason: "the server sent more than there was room for" });
    this.#wake?.();
  }

  /** Take one item in; return what the application is to have of it. @param {any} item */
  #take(item) {
    const progress = this.#progress;
    if (item.type === "subscribed") {
      progress.begin(item);
      if (item.ended) this.close();
      if (!item.snapshot) return undefined;
      this.#taken = progress.cursor;
      return { type: "snapshot", ...item.snapshot };
    }
    if (item.type === "unsubscribed") {
      this.close();
      return undefined;
    }
    if (item.type === undefined) return this.#takeEvent(item);
    progress.cursor = this.#taken = item.cursor;
    if (item.type === "caught_up") this.#say({ state: "live", resumed: this.#connections > 1, recovered: this.#recovered });
    return undefined;
  }

  /** @param {any} event */
  #takeEvent({ sub, ...event }) {
    const progress = this.#progress;
    this.#acknowledge(event.cursor);
    if (!progress.isNew(event)) return undefined;
    const expected = progress.expected(event);
    if (event.seq !== expected) {
      this.#missed(event, expected);
      return undefined;
    }
    progress.note(event.orderId, event.seq);
    progress.cursor = this.#taken = event.cursor;
    this.#recovered += 1;
    if (progress.isOfOrder && ENDED.has(event.status)) this.close();
    return event;
  }

  /** @param {string} cursor */
  #acknowledge(cursor) {
    this.#unacknowledged += 1;
    if (this.#unacknowledged * 4 < this.#options.window) return;
    this.#unacknowledged = 0;
    this.#send({ type: "ack", sub: SUB, cursor });
  }

  /** Look a second time before it is called a gap. @param {any} event @param {number} expected */
  #missed({ orderId, seq }, expected) {
    const gap = `${orderId} ${expected}`;
    const text = `event ${expected} of order ${orderId} did not come, but ${seq} did`;
    this.#queue = [];
    if (gap === this.#gap) this.#fail(new FollowError("gap", text, { orderId, expected, seq }));
    this.#gap = gap;
    this.#end?.({ code: LOST, reason: text });
  }

  /** @param {any} problem */
  #refused(problem) {
    const { code, message, lastCommon, retryAfterMs } = problem;
    if (PASSING.has(code)) {
      this.#end?.({ code: LOST, reason: message, waitMs: retryAfterMs });
      return;
    }
    const beginning = { after: this.#progress.isOfOrder ? "0" : "start" };
    /** @type {Partial<Wanted>|undefined} */
    let resume;
    if (code === "fork") resume = lastCommon ? { after: lastCommon.cursor } : beginning;
    if (code === "truncated" || code === "cursor_unavailable")
      resume = this.#progress.isOfOrder ? beginning : { after: undefined, snapshot: true };
    // Nothing can be resumed after it, and a snapshot does not take its place by itself.
    if (resume?.snapshot) this.#options.store?.save(null);
    this.#fail(new FollowError(code, message ?? code, { problem, lastCommon, resume }));
  }

  /** End, once what waits here is taken, with an error. @param {unknown} error */
  #fail(error) {
    if (this.#isOver) return;
    const waiting = this.#queue;
    this.#failure = error;
    this.close();
    this.#queue = waiting;
  }

  /** @param {object} message */
  #send(message) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  /** @param {State} state */
  #say(state) {
    this.#options.onState?.(state);
  }

  /** @param {number} ms @returns {Promise<void>} */
  #pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#hurry = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** @param {string} text */
function parsed(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" ? value : undefined;
  } catch {
    return undefined;
  }
}
