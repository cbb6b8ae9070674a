// How far a follower of orders has come. Pure; resume.js does the rest.

/**
 * @typedef {object} Wanted Which events, and from where on. One of orderId, clientId, scope; one start at most.
 * @property {string} [orderId] one order; its following ends with its last event
 * @property {string} [clientId] one client's orders
 * @property {"all"} [scope] all orders
 * @property {string} [after] the cursor of the last event that was processed
 * @property {"start"|"now"} [from]
 * @property {string} [since] RFC 3339
 * @property {number} [last] the newest so many events
 * @property {boolean} [snapshot] first `{type: "snapshot", orders, asOf, next}`
 * @property {string[]} [events] @property {string[]} [statuses] @property {string[]} [assets]
 * @property {"caught_up"} [until] end where the log ends
 */

const ORDERS_MAX = 10_000;

/** How far an application has come: which events are new to it, and after which to resume. */
export class Progress {
  /** @param {Wanted} wanted */
  constructor({ after, from, since, last, snapshot, ...members }) {
    this.members = members;
    this.first = { from, since, last, snapshot };
    /** @type {string|undefined} */
    this.cursor = after;
    this.isOfOrder = "orderId" in members;
    this.isFiltered = Boolean(members.events || members.statuses);
    /** Whether an order's first event must be its first to come here. */
    this.isWhole = from === "start" || after === "start";
    /** @type {Map<string, number>} the last seq of each order, those heard of last at the end */
    this.seqs = new Map();
  }

  /** The members of `subscribe`. */
  get subscribe() {
    return { ...this.members, ...(this.cursor === undefined ? this.first : { after: this.cursor }) };
  }

  /** Begin elsewhere. @param {string} cursor */
  moveTo(cursor) {
    this.cursor = cursor;
    this.isWhole = false;
  }

  /** @param {any} frame `subscribed` */
  begin(frame) {
    this.cursor ??= String(frame.snapshot?.asOf ?? frame.after);
    if (typeof frame.after === "number" && !this.seqs.has(frame.orderId)) this.seqs.set(frame.orderId, frame.after);
    for (const order of frame.snapshot?.orders ?? []) this.note(order.orderId, order.seq);
  }

  /** @param {any} event */
  isNew(event) {
    return event.seq > (this.seqs.get(event.orderId) ?? 0);
  }

  /** The seq that must come next, or the event's own where any may. @param {any} event */
  expected(event) {
    const last = this.seqs.get(event.orderId) ?? (this.isWhole && this.seqs.size < ORDERS_MAX ? 0 : undefined);
    return this.isFiltered || last === undefined ? event.seq : last + 1;
  }

  /** @param {string} orderId @param {number} seq */
  note(orderId, seq) {
    this.seqs.delete(orderId);
    this.seqs.set(orderId, seq);
    if (this.seqs.size > ORDERS_MAX) this.seqs.delete(/** @type {string} */ (this.seqs.keys().next().value));
  }
}
