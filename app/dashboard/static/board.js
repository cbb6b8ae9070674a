// The live board: orders by state, from one subscription to all of them, with a bounded number of elements.
import { byId, el, fill } from "./dom.js";
import { headline } from "./facts.js";
import { ENDED } from "./resume.js";

const ORDERS_MAX = 1_000;
const CARDS_MAX = 12;
const SECONDS = 60;

const COLUMNS = [
  { name: "Waiting", statuses: ["pending", "resting"] },
  { name: "Routing", statuses: ["routing"] },
  { name: "Building", statuses: ["building"] },
  { name: "Submitted", statuses: ["submitted", "cancel_pending"] },
  { name: "Confirmed", statuses: ["confirmed"] },
  { name: "Not executed", statuses: ["failed", "rejected", "cancelled", "expired"] },
];
const COLUMN_OF = new Map(COLUMNS.flatMap(({ statuses }, at) => statuses.map((status) => [status, at])));

/** Shows what it is given; what it was given last comes first. */
export class Board {
  /** @type {Map<string, any>} those that moved last at the end */
  #orders = new Map();
  /** @type {Map<string, HTMLElement>} */
  #cards = new Map();
  #isDue = false;
  #rates = new Array(SECONDS).fill(0);
  #columns;

  constructor() {
    this.#columns = COLUMNS.map(({ name }, at) => {
      const count = el("span", { class: "count", data: { count: name } }, "0");
      const list = el("ol", { class: "cards" });
      const more = el("p", { class: "hint more" });
      const title = el("h3", { id: `column-${at}` }, name, " ", count);
      byId("board").append(el("section", { class: "column", "aria-labelledby": `column-${at}` }, title, list, more));
      return { count, list, more };
    });
    setInterval(() => this.#tick(), 1_000);
  }

  /** @param {any} item an event, or a snapshot */
  take(item) {
    if (item.type === "snapshot") {
      this.#orders.clear();
      // The newest come first.
      for (const order of item.orders.toReversed()) this.#put(order);
    } else {
      this.#rates[SECONDS - 1] += 1;
      const { event, ...members } = item;
      const known = this.#orders.get(item.orderId);
      const { status, seq, orderId } = item;
      this.#put(event === "pending" ? members : { ...known, status, seq, orderId });
    }
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => this.#show());
  }

  /** @param {any} order */
  #put(order) {
    this.#orders.delete(order.orderId);
    this.#orders.set(order.orderId, order);
    if (this.#orders.size <= ORDERS_MAX) return;
    const [eldest] = this.#orders.keys();
    const ended = [...this.#orders.values()].find(({ status }) => ENDED.has(status));
    this.#orders.delete(ended?.orderId ?? eldest);
  }

  #show() {
    this.#isDue = false;
    /** @type {any[][]} */
    const sorted = COLUMNS.map(() => []);
    for (const order of this.#orders.values()) sorted[COLUMN_OF.get(order.status) ?? 0].push(order);
    const shown = new Map();
    for (const [at, orders] of sorted.entries()) {
      const { count, list, more } = this.#columns[at];
      const newest = orders.slice(-CARDS_MAX).reverse();
      count.textContent = String(orders.length);
      for (const order of newest) shown.set(order.orderId, this.#card(order));
      fill(list, newest.map(({ orderId }) => shown.get(orderId)));
      more.textContent = orders.length > CARDS_MAX ? `and ${orders.length - CARDS_MAX} more` : "";
    }
    this.#cards = shown;
  }

  /** @param {any} order */
  #card({ orderId, status, seq, ...order }) {
    const card = this.#cards.get(orderId) ?? el("li", { data: { order: orderId } }, el("a", { href: `#/orders/${orderId}` }, el("strong"), el("span")));
    if (card.dataset.seq === String(seq)) return card;
    Object.assign(card.dataset, { seq: String(seq), status });
    const [title, detail] = card.querySelectorAll("strong, span");
    title.textContent = headline(/** @type {any} */ (order));
    detail.textContent = `${status} · …${orderId.slice(-9)}`;
    return card;
  }

  #tick() {
    const most = Math.max(1, ...this.#rates);
    const points = this.#rates.map((rate, at) => `${at},${19 - (18 * rate) / most}`).join(" ");
    const line = byId("rate");
    line.firstElementChild.setAttribute("points", points);
    line.setAttribute("aria-label", `Events per second: ${this.#rates[SECONDS - 1]} now, at most ${most} within a minute`);
    this.#rates.push(0);
    this.#rates.shift();
  }
}
