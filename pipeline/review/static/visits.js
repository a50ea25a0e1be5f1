// Goes to another screen or label by exchanging one part of the page, and keeps the browser's way back right.
import { tell } from "./verdicts.js";

const here = () => location.pathname + location.search;
let shown = here();

// Exchanges the element with this id. Gives false where the page stays as it is, and says why.
export async function visit(address, id) {
  const action = document.activeElement?.dataset.action;
  const before = document.getElementById(id);
  try {
    await htmx.ajax("GET", address, { target: `#${id}`, select: `#${id}`, swap: "outerHTML" });
  } catch {
    tell("The server can't be reached; try again.");
  }
  const after = document.getElementById(id);
  if (!after || after === before) return false;
  history.pushState({}, "", address);
  shown = here();
  if (action) after.querySelector(`[data-action="${action}"]`)?.focus();
  return true;
}

export function watchHistory() {
  addEventListener("popstate", () => { if (here() !== shown) location.reload(); });
  // A page that the browser kept shows verdicts as they were when it was left.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}
