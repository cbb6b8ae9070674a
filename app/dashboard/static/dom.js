// Elements from code: text is always text, so nothing that an order holds can become markup.

/**
 * @param {string} tag @param {Record<string, any>} [properties] `on…` listens, `data` is the dataset, others are attributes
 * @param {...(Node|string|null|undefined|false)} children
 */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** @param {string} id @returns {any} */
export const byId = (id) => document.getElementById(id);

/** Replace children only where they differ, and keep the focus. @param {Element} parent @param {Node[]} children */
export function fill(parent, children) {
  if (parent.childNodes.length === children.length && children.every((child, at) => parent.childNodes[at] === child)) return;
  const focused = /** @type {HTMLElement|null} */ (document.activeElement);
  const isInside = focused !== null && children.some((child) => child.contains(focused));
  parent.replaceChildren(...children);
  if (isInside) focused?.focus({ preventScroll: true });
}

/** A text with a button that copies it. @param {string} label @param {string} text */
export function copyable(label, text) {
  const code = el("code", { tabindex: "0" }, text);
  const button = el("button", { type: "button", "aria-label": `Copy ${label}`, onclick: copy }, "Copy");
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // Not allowed, as on an address without TLS: marked, it is one key away.
      getSelection()?.selectAllChildren(code);
      button.textContent = "Marked";
    }
  }
  return el("div", { class: "copyable" }, el("span", { class: "label" }, label), code, button);
}

/** Say something for a while. @param {string} text @param {string} [kind] */
export function toast(text, kind = "good") {
  const node = el("p", { class: `toast ${kind}` }, text);
  const toasts = byId("toasts");
  toasts.append(node);
  while (toasts.childElementCount > 3) toasts.firstElementChild.remove();
  setTimeout(() => node.remove(), 8_000);
}
