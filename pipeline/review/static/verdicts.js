// Sends verdicts. A promise of `decide` is kept only once the verdicts are on the server's disk.
const PACE = document.getElementById("pace");
const MESSAGE = document.getElementById("message");

export async function decide(decisions) {
  let answer;
  try {
    answer = await fetch("verdicts", {
      method: "POST",
      // The verdict arrives even if the reviewer leaves the page at once.
      keepalive: true,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ decisions }),
    });
  } catch {
    tell("The server can't be reached; the verdict was not recorded.");
    return null;
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    tell(`Not recorded: ${said.error || answer.statusText || answer.status}`);
    return null;
  }
  const decided = await answer.json().catch(() => null);
  if (!decided) {
    tell("The server's answer broke off; load the page again to see what was recorded.");
    return null;
  }
  tell("");
  for (const state of decided.states) show(state);
  if (decided.median_seconds !== null) {
    PACE.textContent = `${decided.verdicts} verdicts, ${decided.median_seconds.toFixed(1)} s each (median)`;
  }
  return decided;
}

export function tell(text) {
  MESSAGE.textContent = text;
}

function show(state) {
  for (const element of document.querySelectorAll(`[data-label="${state.label}"][data-kind]`)) {
    count((state.kind !== "") - (element.dataset.kind !== ""));
    element.dataset.kind = state.kind;
  }
}

// The number of labels of this search that have been reviewed, where the page shows one.
function count(more) {
  const reviewed = document.getElementById("reviewed");
  if (!reviewed || !more) return;
  const number = Math.max(0, Number(reviewed.dataset.number) + more);
  reviewed.dataset.number = number;
  reviewed.textContent = number.toLocaleString("en");
  reviewed.parentElement.querySelector("meter").value = number;
}

// Seconds since the last call: the person's time, from when an item came before the eyes to the verdict.
export function stopwatch() {
  let began = performance.now();
  return {
    restart() { began = performance.now(); },
    seconds() { return Math.min(86400, Math.round(performance.now() - began) / 1000); },
  };
}
