// The grid: one chip is current, a key judges it, and the next one that nobody judged becomes current at once. Verdicts go
// to the server one after the other; a chip shows its verdict once that is on the server's disk.
import { watchCloseup } from "./closeup.js";
import { askPredicate, isTyping, keyOf, writeNote } from "./dialogs.js";
import { decide, judged, record, remember, stopwatch, takeBack, tell } from "./verdicts.js";
import { visit } from "./visits.js";

const KINDS = { a: "accept", r: "reject", u: "unsure" };

export function watchGrid(view) {
  view.dataset.begun = "yes";
  const chips = [...view.querySelectorAll(".chip")];
  const readOnly = !view.querySelector("[data-judge]");
  // Disagreements and checks are judged one by one, and the audit by screens at most.
  const offers = (action) => Boolean(view.querySelector(`[data-action=${action}]`));
  const watch = stopwatch();
  const keys = new AbortController();
  const closeup = chips.length ? watchCloseup(view.querySelector("#closeup")) : null;
  let current = beginning();
  let sending = Promise.resolve();
  let turns = 0;
  let leaving = false;

  // The label that the reviewer comes back from, or the first that nobody judged.
  function beginning() {
    const left = chips.findIndex((chip) => `#label-${chip.dataset.label}` === location.hash);
    return left >= 0 ? left : Math.max(0, chips.findIndex(isOpen));
  }

  // Whether a click opens its link here, and not in another tab or window.
  const isPlain = (event) => !event.ctrlKey && !event.metaKey && !event.shiftKey;

  function isOpen(chip) {
    return !chip.dataset.kind && !chip.dataset.sending;
  }

  function choose(place, focus = true) {
    if (!chips.length) return;
    chips[current].classList.remove("current");
    // Only the current chip and its buttons, which the others don't show, are stops of the Tab key.
    chips[current].tabIndex = -1;
    current = Math.min(Math.max(place, 0), chips.length - 1);
    chips[current].classList.add("current");
    chips[current].tabIndex = 0;
    if (focus) chips[current].focus({ preventScroll: false });
    requestAnimationFrame(() => closeup.show(chips[current]));
    watch.restart();
  }

  function moveOn() {
    const next = [...chips.slice(current + 1), ...chips.slice(0, current)].find(isOpen);
    if (next) choose(chips.indexOf(next));
  }

  function judge(targets, decisionOf) {
    if (readOnly || !targets.length) return;
    const seconds = watch.seconds() / targets.length;
    const decisions = targets.map((chip) => ({
      label: Number(chip.dataset.label), content: chip.dataset.content, seconds, queue: view.dataset.queue,
      ...decisionOf(chip),
    }));
    const turn = String(++turns);
    for (const chip of targets) chip.dataset.sending = turn;
    moveOn();
    sending = sending.then(() => send(targets, decisions, turn));
  }

  // A chip waits for the last of its verdicts.
  async function send(targets, decisions, turn) {
    const decided = await decide(decisions);
    for (const chip of targets) if (chip.dataset.sending === turn) delete chip.dataset.sending;
    if (!decided) return;
    remember(decided);
    view.querySelector("#done").hidden = chips.some(isOpen);
  }

  const correctPair = (chip) => open(`${chip.querySelector("a.crop").href}#wrong-pair`);

  // Goes to another page after the verdicts that were typed ahead.
  async function open(address) {
    if (leaving) return;
    leaving = true;
    await sending;
    leaving = false;
    location.href = address;
  }

  async function correct(chip) {
    const predicate = await askPredicate(chip.dataset.words);
    chip.focus();
    if (predicate) judge([chip], () => ({ kind: "wrong_predicate", predicate }));
  }

  // Takes back what the last key recorded, and shows it again where it was on another screen.
  async function undo() {
    const chip = chips[current];
    const group = judged.pop() ?? (chip?.dataset.kind ? { verdicts: [{ label: Number(chip.dataset.label), content: chip.dataset.content, of: chip.dataset.time }] } : null);
    if (!group) return;
    const targets = chips.filter((one) => group.verdicts.some(({ label }) => label === Number(one.dataset.label)));
    if (targets.length) choose(chips.indexOf(targets[0]));
    const decided = await (group.accepted ? record("classes", { ...group.accepted, kind: "undo" }) : takeBack(group.verdicts, view.dataset.queue));
    if (!decided) { if (group.address) judged.push(group); return; }
    watch.restart();
    view.querySelector("#done").hidden = true;
    if (!targets.length) await visit(group.address, "results");
    if (group.accepted) tell(`The class is open again (${decided.reopened}).`);
  }

  async function go(address) {
    if (!address || leaving) return;
    leaving = true;
    await sending;
    leaving = await visit(address, "results");
  }

  const columns = () => getComputedStyle(view.querySelector(".grid")).gridTemplateColumns.split(" ").length;
  const acceptRest = () => judge(chips.filter(isOpen), () => ({ kind: "accept" }));

  document.addEventListener("keydown", (event) => {
    if (!view.isConnected) { keys.abort(); return; }
    if (isTyping(event) || leaving) return;
    const chip = chips[current];
    const key = keyOf(event);
    if (closeup?.takes(key, event.shiftKey)) { event.preventDefault(); return; }
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() };
    if (key in moves) { choose(current + moves[key]); event.preventDefault(); return; }
    // A key held down must not judge one label after the other.
    if (event.repeat) return;
    if (key === "n" || key === "PageDown") go(view.dataset.next);
    else if (key === "b" || key === "PageUp") go(view.dataset.previous);
    else if (!chip) return;
    else if (key === "A" && offers("accept-rest")) acceptRest();
    else if (key === "C" && offers("accept-class")) acceptClass();
    else if (key in KINDS) judge([chip], () => ({ kind: KINDS[key] }));
    else if (key === "p" && !readOnly) correct(chip);
    else if (key === "c" && !readOnly) writeNote(chip).then(() => chip.focus());
    else if (key === "z" && !readOnly) sending = sending.then(undo);
    else if (key === "w" && !readOnly) correctPair(chip);
    else if (key === "Enter" && document.activeElement === chip) chip.querySelector("a.crop").click();
    else return;
    event.preventDefault();
  }, { signal: keys.signal });

  // Accepts all labels like the current one, and goes on to those of them that are asked nevertheless.
  function acceptClass() {
    const { label, content } = chips[current].dataset;
    const accepted = { label: Number(label), content };
    sending = sending.then(async () => {
      const taken = await record("classes", accepted);
      if (!taken) return;
      remember([], { accepted });
      if (!(await visit("labels?order=check&share=mine", "results"))) return;
      tell(`Accepted: ${taken.accepted}. To check: ${taken.asked}; if one is wrong, the class is open again.`);
    });
  }

  view.querySelector("[data-action=accept-rest]")?.addEventListener("click", acceptRest);
  view.querySelector("[data-action=accept-class]")?.addEventListener("click", acceptClass);
  for (const chip of chips) {
    chip.addEventListener("click", (event) => {
      const kind = event.target.closest("[data-judge]")?.dataset.judge;
      if (kind === "wrong_pair") correctPair(chip);
      else if (kind === "wrong_predicate") correct(chip);
      else if (kind) judge([chip], () => ({ kind }));
      const link = event.target.closest("a");
      if (link && isPlain(event)) { event.preventDefault(); open(link.href); }
    });
  }
  view.querySelector(".pager").addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || !isPlain(event)) return;
    event.preventDefault();
    go(link.getAttribute("href"));
  });
  chips.forEach((chip, place) => chip.addEventListener("focusin", () => { if (place !== current) choose(place, false); }));
  choose(current);
  for (const address of (view.dataset.following || "").split(" ").filter(Boolean)) new Image().src = address;
}
