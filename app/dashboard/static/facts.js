// What events say, in words and numbers for people. Pure.

export const VENUES = { raydium: "Raydium", meteora: "Meteora" };

/** @param {string} name */
export const venue = (name) => VENUES[/** @type {keyof typeof VENUES} */ (name)] ?? name;

/** Of 1/100 %, exactly. @param {number} bps */
export const percent = (bps) => `${Math.trunc(bps / 100)}.${String(Math.abs(bps) % 100).padStart(2, "0")} %`;

const NEXT = new Map([
  ["pending", "routing"],
  ["resting", "triggered"],
  ["triggered", "routing"],
  ["routing", "routing:quotes"],
  ["routing:quotes", "building"],
  ["building", "submitted"],
  ["submitted", "confirmed"],
  ["submitted:unknown", "confirmed"],
  ["cancel_rejected", "confirmed"],
  ["retrying", "routing"],
  ["price_protected", "routing"],
  ["attempt_failed", "failed"],
]);

/** The events that should follow the last one, if nothing goes wrong. @param {any[]} events */
export function expectedAfter(events) {
  const [first] = events;
  const names = [];
  let name = events.at(-1)?.event;
  const waits = first?.orderType === "sniper" || (first?.orderType === "limit" && (first.timeInForce ?? "GTC") === "GTC");
  if (name === "pending" && waits) names.push((name = "resting"));
  while ((name = NEXT.get(name)) !== undefined) names.push(name);
  return names;
}

/** One line about an event. @param {any} event @param {any} first the order's `pending` */
export function describe(event, first) {
  switch (event.event) {
    case "pending":
      return `${headline(event)}, ${event.orderType}, slippage ${percent(event.slippageBps)}`;
    case "resting":
      return event.trigger?.when === "launched" ? "waits for the launch" : "waits for its price";
    case "triggered":
      return event.venue ? `${venue(event.venue)} reached the price at slot ${event.slot}` : `at slot ${event.slot}`;
    case "routing":
      return `attempt ${event.attempt}`;
    case "routing:quotes":
      return event.quotes.map((/** @type {any} */ quote) => `${venue(quote.venue)} ${quote.amount ?? quote.reason ?? quote.status}`).join(", ");
    case "building":
      return `${venue(event.chosen.venue)} for ${event.chosen.amount}; ${event.minOut ? `at least ${event.minOut}` : `at most ${event.maxIn}`}`;
    case "price_protected":
      return `${event.guard}: ${event.observed} ${event.unit}, the limit is ${event.limit}`;
    case "submitted":
      return `transaction ${short(event.txId)}`;
    case "confirmed":
      return `paid ${event.receipt.amountIn}, received ${event.receipt.amountOut}`;
    case "retrying":
      return `${event.error.message}; attempt ${event.retry.attempt} in ${event.retry.delayMs} ms`;
    case "cancelled":
      return event.message ?? `by ${event.by}`;
    default:
      return event.error?.message ?? event.reason ?? "";
  }
}

/** @param {any} order an order as a list or its `pending` shows it */
export function headline({ side, amount, baseAsset, quoteAsset }) {
  return side ? `${side} ${amount} ${baseAsset} ${side === "buy" ? "with" : "for"} ${quoteAsset}` : "an order from before";
}

/** @param {string} text */
export const short = (text) => (text.length > 14 ? `${text.slice(0, 6)}…${text.slice(-6)}` : text);

/** What an order is after these events. @param {any[]} events */
export function folded(events) {
  /** @type {Record<string, string|number>} */
  const state = {};
  for (const event of events) {
    Object.assign(state, { seq: event.seq, status: event.status });
    if (event.attempt) state.attempt = event.attempt;
    if (event.chosen) Object.assign(state, { venue: venue(event.chosen.venue), quoted: event.chosen.amount });
    if (event.minOut) state["at least"] = event.minOut;
    if (event.maxIn) state["at most"] = event.maxIn;
    if (event.txId) state.transaction = short(event.txId);
    if (event.error) state.error = event.error.code;
    if (event.receipt) Object.assign(state, { paid: event.receipt.amountIn, received: event.receipt.amountOut, fee: event.receipt.fee });
  }
  return state;
}

/** The last quotes and what was made of them. @param {any[]} events */
export function routing(events) {
  const quotes = events.findLast((event) => event.event === "routing:quotes");
  if (!quotes) return undefined;
  const route = events.find((event) => event.event === "building" && event.seq > quotes.seq);
  return { quotes: quotes.quotes, slot: quotes.slot, route };
}

/** Why a venue was chosen. @param {any} route `building` @param {any} first `pending` */
export function verdict(route, first) {
  const chosen = venue(route.chosen.venue);
  if (!route.runnerUp) return `${chosen} was the only venue with a usable price.`;
  const better = first.side === "buy" ? `asks ${percent(route.edgeBps)} less than` : `pays ${percent(route.edgeBps)} more than`;
  return `${chosen} ${better} ${venue(route.runnerUp)}, fees included: an edge of ${route.edgeBps} bps.`;
}
