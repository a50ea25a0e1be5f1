// The two dialogs: keys, and the right predicate.
export function watchHelp() {
  const help = document.getElementById("help");
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

export function isTyping(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return true;
  return event.target.matches("input:not([type=range]), select, textarea");
}
