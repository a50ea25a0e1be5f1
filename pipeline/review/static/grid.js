// The grid: one chip is current, a key judges it, and the next one that nobody judged becomes current.
import { askPredicate, isTyping } from "./dialogs.js";
import { decide, stopwatch } from "./verdicts.js";

const KINDS = { a: "accept", r: "reject", u: "unsure" };
const judged = [];

export function watchGrid(view) {
  view.dataset.begun = "yes";
  const chips = [...view.querySelectorAll(".chip")];
  const readOnly = !view.querySelector("[data-action=accept-rest]");
  const watch = stopwatch();
  let current = Math.max(0, chips.findIndex((chip) => !chip.dataset.kind));
  let waiting = false;
  const keys = new AbortController();

  function choose(place, focus = true) {
    if (!chips.length) return;
    chips[current].classList.remove("current");
    chips[current].tabIndex = -1;
    current = Math.min(Math.max(place, 0), chips.length - 1);
    chips[current].classList.add("current");
    chips[current].tabIndex = 0;
    if (focus) chips[current].focus({ preventScroll: false });
    watch.restart();
  }

  function moveOn() {
    const after = [...chips.slice(current + 1), ...chips.slice(0, current)];
    const next = after.find((chip) => !chip.dataset.kind);
    view.querySelector("#done").hidden = Boolean(next) || !chips.length;
    if (next) choose(chips.indexOf(next));
  }

  async function judge(targets, decisionOf, stays = false) {
    if (waiting || readOnly || !targets.length) return;
    waiting = true;
    const seconds = watch.seconds() / targets.length;
    const decisions = targets.map((chip) => ({
      label: Number(chip.dataset.label), seconds, queue: view.dataset.queue, ...decisionOf(chip),
    }));
    const decided = await decide(decisions);
    waiting = false;
    if (!decided) return;
    if (decisions[0].kind === "undo") judged.splice(0, judged.length, ...judged.filter((n) => !decisions.some((d) => d.label === n)));
    else judged.push(...decisions.map((decision) => decision.label));
    if (stays) watch.restart(); else moveOn();
  }

  async function correct(chip) {
    const predicate = await askPredicate(chip.dataset.words);
    chip.focus();
    if (predicate) await judge([chip], () => ({ kind: "wrong_predicate", predicate }));
  }

  function undo() {
    const last = chips.find((chip) => Number(chip.dataset.label) === judged.at(-1));
    const target = last ?? (chips[current]?.dataset.kind ? chips[current] : null);
    if (!target) return;
    choose(chips.indexOf(target));
    judge([target], () => ({ kind: "undo" }), true);
  }

  function go(address) {
    if (!address) return;
    keys.abort();
    htmx.ajax("GET", address, { target: "#results", select: "#results", swap: "outerHTML" }).then(() => {
      history.pushState({}, "", address);
    });
  }

  const columns = () => getComputedStyle(view.querySelector(".grid")).gridTemplateColumns.split(" ").length;
  const acceptRest = () => judge(chips.filter((chip) => !chip.dataset.kind), () => ({ kind: "accept" }));

  document.addEventListener("keydown", (event) => {
    if (!view.isConnected) { keys.abort(); return; }
    if (isTyping(event)) return;
    const chip = chips[current];
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() };
    if (event.key in moves) { choose(current + moves[event.key]); event.preventDefault(); return; }
    if (event.key === "n" || event.key === "PageDown") go(view.dataset.next);
    else if (event.key === "b" || event.key === "PageUp") go(view.dataset.previous);
    else if (!chip) return;
    else if (event.key === "A") acceptRest();
    else if (event.key in KINDS) judge([chip], () => ({ kind: KINDS[event.key] }));
    else if (event.key === "p" && !readOnly) correct(chip);
    else if (event.key === "z") undo();
    else if (event.key === "w" && !readOnly) location.href = `${chip.querySelector("a.crop").href}#wrong-pair`;
    else if (event.key === "Enter" && document.activeElement === chip) chip.querySelector("a.crop").click();
    else return;
    event.preventDefault();
  }, { signal: keys.signal });

  view.querySelector("[data-action=accept-rest]")?.addEventListener("click", acceptRest);
  chips.forEach((chip, place) => chip.addEventListener("focusin", () => { if (place !== current) choose(place, false); }));
  choose(current, view.dataset.quiet !== "yes");
  for (const number of (view.dataset.following || "").split(" ").filter(Boolean)) new Image().src = `/chips/${number}.jpg`;
}
