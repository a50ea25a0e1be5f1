// The two dialogs: keys, and the right predicate.
export function watchHelp() {
  const help = document.getElementById("help");
  const letters = document.getElementById("letter-keys");
  letters.checked = hasLetterKeys();
  letters.addEventListener("change", () => localStorage.setItem("letter-keys", letters.checked ? "on" : "off"));
  document.getElementById("help-button").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.key === "?" && !isTyping(event)) help.showModal();
    if (event.key === "/" && !isTyping(event)) {
      const search = document.getElementById("search-text");
      if (!search) return;
      search.closest("details").open = true;
      search.focus();
      event.preventDefault();
    }
  });
}

// Asks for a predicate. Gives null when the reviewer changed their mind.
export function askPredicate(words) {
  const dialog = document.getElementById("predicate");
  const input = document.getElementById("predicate-input");
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

// Speech input and slips of the finger type single letters, so that they can be switched off.
const hasLetterKeys = () => localStorage.getItem("letter-keys") !== "off";

export function isTyping(event) {
  if (event.key.length === 1 && !hasLetterKeys()) return true;
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return true;
  return event.target.matches("input:not([type=range]), select, textarea");
}
