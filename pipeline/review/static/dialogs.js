// The dialogs, of keys and of a line of text, and what a key means.
import { keepNote, tell } from "./verdicts.js";

// Key of the page → the reviewer's own. A capital is pressed with Shift.
const own = {};

export function watchHelp() {
  const help = document.getElementById("help");
  const kept = JSON.parse(localStorage.getItem("keys") ?? "{}");
  for (const { dataset: { key } } of help.querySelectorAll("[data-key]")) own[key] = kept[key] ?? key;
  help.addEventListener("keydown", (event) => {
    const { key } = event.target.dataset;
    const typed = typedIn(event);
    if (!key || !/^\S$/u.test(typed) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    // Two keys change places, so that none is lost.
    const other = Object.keys(own).find((one) => own[one] === typed);
    if (other) own[other] = own[key];
    own[key] = typed;
    localStorage.setItem("keys", JSON.stringify(own));
    nameKeys();
  });
  const letters = document.getElementById("letter-keys");
  letters.checked = hasLetterKeys();
  letters.addEventListener("change", () => localStorage.setItem("letter-keys", letters.checked ? "on" : "off"));
  document.getElementById("help-button").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (isTyping(event)) return;
    const key = keyOf(event);
    if (key === "?") help.showModal();
    if (key === "/") {
      const search = document.getElementById("search-text");
      if (!search) return;
      search.closest("details").open = true;
      search.focus();
      event.preventDefault();
    }
  });
}

// Shows the reviewer's own keys wherever the page names one.
export function nameKeys() {
  for (const place of document.querySelectorAll("kbd, [data-key]")) {
    place.dataset.key ??= place.textContent;
    const key = own[place.dataset.key] ?? place.dataset.key;
    place[place.matches("kbd") ? "textContent" : "value"] = /^\p{Lu}$/u.test(key) ? `⇧${key}` : key;
  }
}

// What was typed, whatever Caps Lock does: its "A" would accept the whole screen.
function typedIn({ key, shiftKey }) {
  if (key.length > 1) return key;
  return shiftKey ? key.toUpperCase() : key.toLowerCase();
}

// The key of the page that an event means.
export function keyOf(event) {
  const typed = typedIn(event);
  return Object.keys(own).find((key) => own[key] === typed) ?? (typed in own ? "" : typed);
}

// Asks for a predicate, or for another line. Gives null when the reviewer changed their mind.
export function askPredicate(words, title = "Correct predicate", list = "predicate-list") {
  const dialog = document.getElementById("predicate");
  const input = document.getElementById("predicate-input");
  input.setAttribute("list", list);
  document.getElementById("predicate-title").textContent = title;
  document.getElementById("predicate-words").textContent = words;
  input.value = "";
  dialog.returnValue = "cancel";
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const typed = input.value.trim();
      resolve(dialog.returnValue === "ok" && typed ? typed : null);
    }, { once: true });
  });
}

// Keeps a line for the next verdict on a label, whose element this is.
export async function writeNote(element) {
  const note = await askPredicate(element.dataset.words, "Note", "");
  if (!note) return;
  keepNote(element.dataset, note);
  tell("The note is recorded with your next verdict on this label.");
}

// Speech input and slips of the finger type single letters, so that they can be switched off.
const hasLetterKeys = () => localStorage.getItem("letter-keys") !== "off";

export function isTyping(event) {
  if (event.key.length === 1 && !hasLetterKeys()) return true;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return true;
  return event.target.matches("input:not([type=range]), select, textarea");
}
