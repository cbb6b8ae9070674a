// The form that places an order, and shows what the server says of each field.
import { byId, el } from "./dom.js";
import { ProblemError, request } from "./session.js";

const PAIRS = ["SOL/USDC", "SOL/USDT", "USDC/USDT", "JUP/USDC", "RAY/USDC", "BONK/USDC", "ETH/USDC", "JUP/SOL", "RAY/SOL", "BONK/SOL", "ETH/SOL"];
// Both assets are asked for in one field.
const FIELD_OF = new Map([["baseAsset", "pair"], ["quoteAsset", "pair"]]);

export function setUpForm() {
  const form = byId("order-form");
  byId("pairs").append(...PAIRS.map((pair) => el("option", { value: pair })));
  form.orderType.addEventListener("change", () => showFields(form));
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    place(form);
  });
  showFields(form);
}

/** @param {any} form */
function showFields(form) {
  for (const field of form.querySelectorAll("[data-type]")) field.hidden = field.dataset.type !== form.orderType.value;
}

/** @param {any} form */
function order(form) {
  /** @type {Record<string, string|number>} */
  const fields = {};
  for (const { name, value, parentElement } of form.elements) {
    if (name && name !== "pair" && value.trim() && !parentElement.hidden) fields[name] = value.trim();
  }
  const [base, quote = ""] = form.pair.value.split("/").map((/** @type {string} */ one) => one.trim());
  Object.assign(fields, { baseAsset: base, quoteAsset: quote });
  for (const name of ["slippageBps", "maxFeeBps"]) if (/^\d{1,6}$/.test(String(fields[name]))) fields[name] = Number(fields[name]);
  return fields;
}

/** @param {any} form */
async function place(form) {
  clear(form);
  const button = form.querySelector("[type=submit]");
  button.disabled = true;
  try {
    // Whoever sends it again after a failure is answered with the first order.
    form.dataset.key ||= crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    const placed = await request("POST", "/api/orders", order(form), { "Idempotency-Key": form.dataset.key });
    delete form.dataset.key;
    const link = el("a", { href: `#/orders/${placed.orderId}` }, `order …${placed.orderId.slice(-9)}`);
    byId("placed").replaceChildren("Placed: ", link);
  } catch (error) {
    if (!(error instanceof ProblemError)) throw error;
    // Another try after a refusal is another order.
    if (error.status >= 400 && error.status < 500) delete form.dataset.key;
    show(form, error);
  } finally {
    button.disabled = false;
  }
}

/** @param {any} form */
function clear(form) {
  byId("placed").replaceChildren();
  byId("form-error").hidden = true;
  for (const text of form.querySelectorAll(".field .error")) text.remove();
  for (const input of form.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-describedby");
  }
}

/** @param {any} form @param {ProblemError} problem */
function show(form, problem) {
  const rest = [];
  for (const { pointer, message } of problem.errors) {
    const name = pointer.slice(1);
    const input = form.elements[FIELD_OF.get(name) ?? name];
    if (!input || input.parentElement.hidden) {
      rest.push(`${name} ${message}`);
      continue;
    }
    const id = `${input.name}-error`;
    const text = FIELD_OF.has(name) ? `${name} ${message}` : message;
    byId(id)?.remove();
    input.after(el("p", { id, class: "error" }, text));
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", id);
  }
  form.querySelector("[aria-invalid]")?.focus();
  if (problem.errors.length && !rest.length) return;
  const line = byId("form-error");
  line.textContent = rest.join("; ") || problem.message;
  line.hidden = false;
}
