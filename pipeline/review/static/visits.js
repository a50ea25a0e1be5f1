// Goes to another screen or label by exchanging one part of the page, and keeps the browser's way back right.
import { forgetRefusals, tell } from "./verdicts.js";

const here = () => location.pathname + location.search;
let shown = here();

// Exchanges the element with this id. Gives false where the page stays as it is, and says why.
export async function visit(address, id) {
  const action = document.activeElement?.dataset.action;
  const brought = await bring(address);
  if (!brought) return false;
  const page = new DOMParser().parseFromString(brought.text, "text/html");
  const after = page.getElementById(id);
  if (!after) { tell("The server sent another page, perhaps to sign in; load this one again."); return false; }
  document.title = page.title;
  document.getElementById(id).replaceWith(after);
  document.dispatchEvent(new Event("visited"));
  history.pushState({}, "", brought.url);
  shown = here();
  forgetRefusals();
  if (action) after.querySelector(`[data-action="${action}"]`)?.focus();
  return true;
}

// What the server answers, as text, and the address to which it led; null where it gives nothing, which the page says.
export async function bring(address) {
  try {
    const answer = await fetch(address);
    tell(answer.ok ? "" : `The server answered ${answer.status}; load the page again.`);
    return answer.ok ? { text: await answer.text(), url: answer.url } : null;
  } catch {
    tell("The server can't be reached; try again.");
    return null;
  }
}

export function watchHistory() {
  addEventListener("popstate", () => { if (here() !== shown) location.reload(); });
  // A page that the browser kept shows verdicts as they were when it was left.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}
