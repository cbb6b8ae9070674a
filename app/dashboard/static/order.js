// The page of one order: its events as they come, the venues compared, the receipt, and what it was at any earlier event.
import { byId, copyable, el, fill } from "./dom.js";
import { describe, expectedAfter, folded, headline, percent, routing, venue, verdict } from "./facts.js";
import { ENDED, FollowError, follow } from "./resume.js";
import { ProblemError, askForKey, getKey, isAboutKey, request, socketUrl } from "./session.js";

/** Shows an order until it is closed. */
export class OrderPage {
  /** @type {any[]} */
  #events = [];
  /** @type {number|null} the seq that the slider stands at; null: the last */
  #at = null;
  /** @type {Map<number, {node: Element, time: Element}>} */
  #entries = new Map();
  #orderId;
  #parts;
  /** @type {import("./resume.js").Following|undefined} */
  #following;

  /** @param {string} orderId */
  constructor(orderId) {
    this.#orderId = orderId;
    const part = (/** @type {string} */ tag, /** @type {string} */ name) => el(tag, { class: name });
    const slider = el("input", { type: "range", id: "as-of", min: "1", max: "1", value: "1", oninput: () => this.#move() });
    this.#parts = {
      title: el("h2", { id: "order-title", tabindex: "-1" }, "…"),
      status: el("span", { class: "pill", role: "status" }),
      cancel: el("button", { type: "button", onclick: () => this.#cancel(), hidden: true }, "Cancel the order"),
      told: el("p", { class: "error", role: "alert", hidden: true }),
      slider: /** @type {HTMLInputElement} */ (slider),
      asOf: el("output", { for: "as-of" }),
      timeline: part("ol", "timeline"),
      routing: part("section", "card routing"),
      receipt: part("section", "card receipt"),
      state: part("section", "card state"),
    };
    this.#lay();
    this.#follow();
  }

  close() {
    this.#following?.close();
  }

  /** Lose the connection, see `Following.drop`. @param {number} holdMs */
  drop(holdMs) {
    this.#following?.drop(holdMs);
  }

  #lay() {
    const { title, status, cancel, told, slider, asOf, timeline, routing, receipt, state } = this.#parts;
    const key = getKey() ? ` -H "Authorization: Bearer $KEY"` : "";
    const path = `${location.origin}/api/orders/${this.#orderId}`;
    byId("order-view").replaceChildren(
      el("div", { class: "order-head" }, el("a", { href: "#/", class: "back" }, "← Board"), title, status, cancel),
      el("p", { class: "hint" }, el("code", {}, this.#orderId)),
      told,
      el(
        "div",
        { class: "order-body" },
        el(
          "section",
          { class: "card", "aria-labelledby": "timeline-title" },
          el("h3", { id: "timeline-title" }, "Events"),
          el("div", { class: "slider" }, el("label", { for: "as-of" }, "As of event"), slider, asOf),
          timeline,
        ),
        el("div", { class: "order-side" }, routing, receipt, state),
      ),
      el(
        "section",
        { class: "card", "aria-labelledby": "curl-title" },
        el("h3", { id: "curl-title" }, "The same from a terminal"),
        copyable("the order", `curl -s${key} '${path}'`),
        copyable("its events", `curl -s${key} '${path}/events'`),
        copyable("its events as they come", `curl -N${key} '${path}/stream'`),
      ),
    );
  }

  async #follow() {
    /** @type {import("./resume.js").Wanted} */
    let wanted = { orderId: this.#orderId, from: "start" };
    for (;;) {
      this.#following = follow(socketUrl(), wanted, { getToken: getKey, tries: Infinity });
      try {
        await this.#following.forEach((event) => this.#take(event));
        return;
      } catch (error) {
        if (!(error instanceof FollowError) || !error.resume) return this.#tell(/** @type {any} */ (error));
        // Whatever was shown after the last common event did not last.
        const lasted = /** @type {any} */ (error).lastCommon?.seq ?? 0;
        this.#events = this.#events.filter(({ seq }) => seq <= lasted);
        this.#entries.clear();
        wanted = { orderId: this.#orderId, ...error.resume };
      }
    }
  }

  /** @param {any} error */
  #tell(error) {
    if (isAboutKey(error)) askForKey();
    this.#parts.told.textContent = error.message;
    this.#parts.told.hidden = false;
  }

  async #cancel() {
    try {
      await request("DELETE", `/api/orders/${this.#orderId}`);
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      this.#tell(error);
    }
  }

  /** @param {any} event */
  #take(event) {
    this.#events.push(event);
    if (event.seq === 1) this.#parts.title.focus({ preventScroll: true });
    this.#show();
  }

  #move() {
    const at = Number(this.#parts.slider.value);
    this.#at = at === this.#events.length ? null : at;
    this.#show();
  }

  #show() {
    const { title, status, cancel, slider, asOf } = this.#parts;
    const count = this.#events.length;
    const events = this.#events.slice(0, this.#at ?? count);
    const [first] = events;
    const last = events[events.length - 1];
    title.textContent = headline(first);
    status.textContent = last.status;
    status.dataset.state = last.status;
    cancel.hidden = this.#at !== null || ENDED.has(last.status) || last.status === "cancel_pending";
    slider.max = String(count);
    slider.value = String(events.length);
    asOf.textContent = `${events.length} of ${count}`;
    this.#showTimeline(events);
    this.#showRouting(events);
    this.#showReceipt(last);
    this.#showState(events);
  }

  /** @param {any[]} events */
  #showTimeline(events) {
    const nodes = events.map((event, at) => this.#entry(event, events[at - 1], events[0]));
    const isOver = ENDED.has(events[events.length - 1].status);
    const expected = isOver ? [] : expectedAfter(events).map((name) => el("li", { class: "expected" }, el("span", { class: "name" }, name), el("span", { class: "hint" }, "expected")));
    fill(this.#parts.timeline, [...nodes, ...expected]);
  }

  /** @param {any} event @param {any} before @param {any} first */
  #entry(event, before, first) {
    const known = this.#entries.get(event.seq);
    if (known) return known.node;
    const took = before ? `+${Date.parse(event.at) - Date.parse(before.at)} ms` : event.at.slice(11, 23);
    const time = el("time", { datetime: event.at, title: event.at }, took);
    const node = el(
      "li",
      { data: { event: event.event, seq: event.seq } },
      el("span", { class: "name" }, event.event),
      time,
      el("span", { class: "what" }, describe(event, first)),
      el("details", {}, el("summary", {}, `JSON of event ${event.seq}`), el("pre", { tabindex: "0" }, JSON.stringify(event, null, 2))),
    );
    this.#entries.set(event.seq, { node, time });
    return node;
  }

  /** @param {any[]} events */
  #showRouting(events) {
    const found = routing(events);
    const part = this.#parts.routing;
    part.hidden = !found;
    if (!found) return;
    const [first] = events;
    const names = ["Venue", first.side === "buy" ? `Pays ${first.quoteAsset}` : `Gets ${first.quoteAsset}`, "Fee", "Impact", "Latency"];
    const rows = found.quotes.map((/** @type {any} */ quote) => {
      const isChosen = quote.venue === found.route?.chosen.venue;
      const answers = quote.amount
        ? [quote.amount, quote.fee, `${(quote.impactPpm ?? 0) / 10_000} %`, quote.latencyMs === undefined ? "" : `${quote.latencyMs} ms`]
        : [quote.reason ?? quote.status, "", "", ""];
      const head = el("th", { scope: "row" }, venue(quote.venue), isChosen && el("span", { class: "chosen" }, "chosen"));
      return el("tr", { data: { venue: quote.venue, chosen: String(isChosen) } }, head, ...answers.map((text) => el("td", {}, text)));
    });
    const limit = found.route && (found.route.minOut ? `At least ${found.route.minOut} must come back` : `At most ${found.route.maxIn} may be paid`);
    part.replaceChildren(
      el("h3", {}, "Routing"),
      el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Quotes" }, el("table", {}, el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...rows))),
      el("p", { class: "verdict" }, found.route ? verdict(found.route, first) : "No route was chosen."),
      el("p", { class: "hint" }, `${limit ? `${limit}, slippage ${percent(first.slippageBps)}. ` : ""}Simulated quotes of slot ${found.slot}.`),
    );
  }

  /** @param {any} last */
  #showReceipt(last) {
    const part = this.#parts.receipt;
    part.hidden = !last.receipt;
    if (!last.receipt) return;
    const { venue: at, amountIn, amountOut, fee, fees, networkFee, slot } = last.receipt;
    const [{ side, baseAsset, quoteAsset }] = this.#events;
    const [paid, received] = side === "buy" ? [quoteAsset, baseAsset] : [baseAsset, quoteAsset];
    const split = Object.entries(fees ?? {}).map(([name, amount]) => `${name} ${amount}`).join(", ");
    part.replaceChildren(
      el("h3", {}, "Receipt"),
      facts({ Paid: `${amountIn} ${paid}`, Received: `${amountOut} ${received}`, Venue: venue(at), "Pool fee": `${fee} ${paid}${split && ` (${split})`}`, "Network fee": `${networkFee} SOL`, Slot: slot }),
      copyable("transaction (simulated)", last.txId),
    );
  }

  /** @param {any[]} events */
  #showState(events) {
    const now = folded(events);
    const before = folded(events.slice(0, -1));
    const changed = Object.keys(now).filter((name) => now[name] !== before[name]);
    this.#parts.state.replaceChildren(el("h3", {}, `The order after event ${events.length}`), facts(now, changed));
  }
}

/** @param {Record<string, any>} members @param {string[]} [changed] */
function facts(members, changed = []) {
  const pairs = Object.entries(members).map(([name, value]) => el("div", { class: changed.includes(name) ? "changed" : "" }, el("dt", {}, name), el("dd", {}, String(value))));
  return el("dl", { class: "facts" }, ...pairs);
}
