// The dashboard: one subscription to all orders for the board, one more for the order that is looked at.
import { Board } from "./board.js";
import { byId, toast } from "./dom.js";
import { OrderPage } from "./order.js";
import { setUpForm } from "./place.js";
import { follow } from "./resume.js";
import { askForKey, getKey, isAboutKey, session, socketUrl, useKey } from "./session.js";

const DROP_MS = 2_000;

const board = new Board();
/** @type {OrderPage|null} */
let page = null;
/** @type {import("./resume.js").Following|null} */
let following = null;

/** @param {import("./resume.js").State} state */
function showState({ state, resumed, recovered = 0, reason, retryInMs = 0 }) {
  const pill = byId("connection");
  pill.dataset.state = state;
  const events = `${recovered} ${recovered === 1 ? "event" : "events"} recovered`;
  pill.textContent = { connecting: "connecting", replaying: "catching up", closed: "closed", waiting: `lost: ${reason}; back in ${(retryInMs / 1_000).toFixed(1)} s`, live: resumed ? `live · resumed, ${events}` : "live" }[state];
  if (state === "live" && resumed) toast(`Resumed after the last event: ${events}, none lost, none twice.`);
}

/** @param {{scope: "all"}|{clientId: string}} scope */
async function followAll(scope = { scope: "all" }) {
  const mine = follow(socketUrl(), { ...scope, snapshot: true }, { getToken: getKey, onState: showState, tries: Infinity });
  following = mine;
  try {
    await mine.forEach((item) => board.take(item));
  } catch (/** @type {any} */ error) {
    if (following !== mine) return;
    // A snapshot takes the place of everything that was shown.
    if (error.resume) {
      toast(`The server's history is not the one that was shown (${error.code}): it is shown anew.`, "bad");
      followAll(scope);
    } else if (isAboutKey(error)) {
      askForKey();
    } else if (error.code === "forbidden" && mine.principal?.clientId && "scope" in scope) {
      // A trader's key: the board shows that client's orders.
      followAll({ clientId: mine.principal.clientId });
    } else {
      tell(`Orders are not followed any more: ${error.message}`);
    }
  }
}

/** @param {string} text */
function tell(text) {
  byId("trouble").textContent = text;
  byId("trouble").hidden = text === "";
}

function route() {
  const match = /^#\/orders\/([0-9A-Z-]+)$/.exec(location.hash);
  page?.close();
  page = match && new OrderPage(match[1]);
  byId("order-view").hidden = !match;
  byId("board-view").hidden = Boolean(match);
  document.title = match ? `Order …${match[1].slice(-9)} · OrderTape` : "OrderTape";
}

function setUpKey() {
  session.addEventListener("refused", () => {
    byId("key-text").textContent = getKey() ? "The server does not take this API key." : "This server asks for an API key. It stays in this tab only.";
    byId("key-form").hidden = false;
    byId("key").focus();
  });
  session.addEventListener("key", () => {
    following?.close();
    followAll();
    route();
  });
  byId("key-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    byId("key-form").hidden = true;
    tell("");
    useKey(byId("key").value);
    byId("key").value = "";
  });
}

byId("drop").addEventListener("click", () => {
  following?.drop(DROP_MS);
  page?.drop(DROP_MS);
});
window.addEventListener("hashchange", route);
setUpKey();
setUpForm();
route();
followAll();
