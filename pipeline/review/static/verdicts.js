// Sends verdicts. A promise of `decide` is kept only once the verdicts are on the server's disk.
const PACE = document.getElementById("pace");
const MESSAGE = document.getElementById("message");
const NUMBERS = new Intl.NumberFormat("en");
const WAITS = [500, 1000, 2000, 4000, 8000];
// The server takes no more verdicts with one request (decisions.py).
const AT_ONCE = 200;

// What this visit recorded, for undo: groups of verdicts that were given with one key, and the address of their screen. `more`:
// the address to which the key led, or a label whose class was accepted.
export const judged = [];

export function remember(verdicts, more) {
  if (verdicts.length || more?.accepted) judged.push({ verdicts, ...more, address: location.pathname + location.search });
}

// A note waits in this tab for the verdicts on its label, on whichever screen they are given.
const noteOf = ({ label, content }) => `note ${label} ${content}`;
export const keepNote = (label, note) => sessionStorage.setItem(noteOf(label), note);

let notice = "";
let waiting = "";
// Label → why its last verdict was refused.
const refusals = new Map();

// Records verdicts and gives those that did not stand already, as an undo names them: by label, its content and time. Gives
// null where the server refuses them. While the server can't be reached or fails, it tries again, so that verdicts arrive in
// the order of the keys. The server records what stands already only once.
export async function decide(decisions) {
  if (decisions.length > AT_ONCE) {
    const first = await decide(decisions.slice(0, AT_ONCE));
    const rest = first && await decide(decisions.slice(AT_ONCE));
    return rest && [...first, ...rest];
  }
  for (let attempt = 0; ; attempt += 1) {
    const [outcome, text] = await send(decisions);
    if (outcome !== "again") {
      waiting = "";
      for (const { label } of decisions) {
        if (outcome === "refused") refusals.set(String(label), text); else refusals.delete(String(label));
      }
      mark();
      return outcome === "refused" ? null : outcome;
    }
    const wait = WAITS[Math.min(attempt, WAITS.length - 1)];
    waiting = `${text} Not recorded yet; trying again.`;
    mark();
    await new Promise((resolve) => { setTimeout(resolve, wait); });
  }
}

// Sends what is not a verdict on one label: a class, or a missing relation. Gives the answer, or null and says why.
export async function record(address, body) {
  const [outcome, text] = await post(address, body);
  if (text) tell(text);
  return text ? null : outcome;
}

// The server's answer to a request that records, or "refused" or "again" with the reason.
async function post(address, body) {
  let answer;
  try {
    answer = await fetch(address, {
      method: "POST",
      // The verdict arrives even if the reviewer leaves the page at once.
      keepalive: true,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    return ["again", "The server can't be reached."];
  }
  const said = await answer.json().catch(() => null);
  if (answer.status >= 500 || (answer.ok && !said)) return ["again", said?.error ?? "The server failed."];
  if (!answer.ok) return ["refused", said?.error ?? `The server answered ${answer.status}; load the page again.`];
  return [said];
}

async function send(decisions) {
  const noted = decisions.map((one) => ({ note: sessionStorage.getItem(noteOf(one)), ...one }));
  const [said, text] = await post("verdicts", { decisions: noted });
  if (text) return [said, text];
  if (said.reopened) tell(`This label is wrong, so its class is open again (${said.reopened}).`);
  const recorded = said.states.filter(({ label, time }) => !document.querySelector(`[data-label="${label}"][data-time="${time}"]`));
  for (const state of said.states) show(state);
  if (said.median_seconds !== null) {
    PACE.textContent = `${said.verdicts} verdicts, ${said.median_seconds.toFixed(1)} s each (median)`;
  }
  const contents = new Map(decisions.map(({ label, content }) => [label, content]));
  return [recorded.map(({ label, time }) => ({ label, content: contents.get(label), of: time }))];
}

export function takeBack(verdicts, queue) {
  return decide(verdicts.map((one) => ({ ...one, kind: "undo", note: null, queue })));
}

export function tell(text) {
  notice = text;
  mark();
}

// Shows the most urgent message, and marks the labels whose verdict was refused.
function mark() {
  const [refused] = refusals.values();
  MESSAGE.textContent = waiting || (refused ? `Not recorded: ${refused}` : notice);
  for (const chip of document.querySelectorAll(".chip[data-label]")) {
    chip.toggleAttribute("data-refused", refusals.has(chip.dataset.label));
  }
}

// Another screen came: what was refused on the last one can't be judged here.
export function forgetRefusals() {
  refusals.clear();
  mark();
}

addEventListener("beforeunload", (event) => { if (waiting || document.querySelector("[data-sending]")) event.preventDefault(); });

function show(state) {
  for (const element of document.querySelectorAll(`[data-label="${state.label}"][data-kind]`)) {
    count((state.kind !== "") - (element.dataset.kind !== ""));
    element.dataset.kind = state.kind;
    element.dataset.time = state.time;
    element.querySelector(".correction").textContent = state.correction;
    element.querySelector(".others").textContent = state.others.join(", ");
    if (element.dataset.name) {
      element.setAttribute("aria-label", [element.dataset.name, state.kind.replace("_", " "), state.correction].filter(Boolean).join(", "));
    }
  }
}

// The number of labels of this search that have been reviewed, where the page shows one.
function count(more) {
  const reviewed = document.getElementById("reviewed");
  if (!reviewed || !more) return;
  const number = Math.max(0, Number(reviewed.dataset.number) + more);
  reviewed.dataset.number = number;
  reviewed.textContent = NUMBERS.format(number);
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
