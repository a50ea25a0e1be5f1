// The image view: one label over its image, linked with its words, its triplet and its edge of the scene graph.
import { askPredicate, isTyping } from "./dialogs.js";
import { decide, stopwatch, tell } from "./verdicts.js";
import { visit } from "./visits.js";

const KINDS = { a: "accept", r: "reject", u: "unsure" };
const judged = [];

export function watchImage(view) {
  view.dataset.begun = "yes";
  const items = [...view.querySelectorAll("#labels > li[data-label]")];
  const chosen = items.find((item) => item.dataset.label === view.dataset.chosen);
  const readOnly = !view.querySelector(".verdict-buttons");
  const watch = stopwatch();
  const keys = new AbortController();
  let busy = false;
  let end = "object";

  // Links: a label stands for its two boxes, its triplet and its edge.
  function light(labels, boxes, triplets) {
    for (const element of view.querySelectorAll(".lit")) element.classList.remove("lit");
    const lit = (selector) => view.querySelectorAll(selector).forEach((element) => element.classList.add("lit"));
    for (const label of labels) lit(`[data-label="${label}"]`);
    for (const box of boxes) lit(`[data-box="${box}"]`);
    for (const triplet of triplets) {
      lit(`li[data-triplet="${triplet}"]:not([data-label])`);
      lit(`mark[data-triplet~="${triplet}"]`);
    }
  }

  function linked(element) {
    const { label, box, triplet } = element.dataset;
    const all = items.filter((item) => (
      label !== undefined ? item.dataset.label === label
        : box !== undefined ? item.dataset.subject === box || item.dataset.object === box
          : triplet.split(" ").includes(item.dataset.triplet)
    ));
    const boxes = new Set(all.flatMap((item) => [item.dataset.subject, item.dataset.object]));
    if (box !== undefined) boxes.add(box);
    const triplets = new Set(all.map((item) => item.dataset.triplet).filter(Boolean));
    if (label === undefined && triplet) triplet.split(" ").forEach((one) => triplets.add(one));
    light(all.map((item) => item.dataset.label), boxes, triplets);
  }

  function showChosen() {
    for (const element of view.querySelectorAll("[data-box]")) {
      element.classList.toggle("subject", element.dataset.box === chosen?.dataset.subject);
      element.classList.toggle("object", element.dataset.box === chosen?.dataset.object);
    }
    if (chosen) linked(chosen); else light([], [], []);
  }

  for (const kind of ["pointerover", "focusin"]) {
    view.addEventListener(kind, (event) => {
      const element = event.target.closest("[data-label], [data-box], [data-triplet]");
      if (element && view.contains(element)) linked(element); else showChosen();
    });
  }
  view.addEventListener("pointerleave", showChosen);

  // Another choice of labels, tried on this image.
  const form = view.querySelector("#try");
  let asked = 0;
  async function tryChoice() {
    const values = new URLSearchParams(new FormData(form));
    view.querySelector("#try-value").textContent = Number(values.get("threshold")).toFixed(2);
    const turn = ++asked;
    const answer = await fetch(`${form.dataset.address}?${values}`);
    const said = await answer.json().catch(() => ({}));
    if (turn !== asked) return;
    if (!answer.ok) { view.querySelector("#try-result").textContent = said.error ?? "This choice can't be tried."; return; }
    let kept = 0;
    for (const [label, reason] of Object.entries(said.reasons)) {
      kept += reason === null;
      for (const element of view.querySelectorAll(`[data-label="${label}"][data-kept]`)) {
        element.dataset.kept = reason === null ? "yes" : "no";
        const why = element.querySelector(".why");
        if (why) why.textContent = reason ?? "kept";
      }
    }
    view.querySelector("#try-result").textContent = `This choice keeps ${kept} of ${items.length} labels.`;
  }
  form.addEventListener("input", tryChoice);
  form.addEventListener("submit", (event) => event.preventDefault());

  // Verdicts. Until the answer is there and the next label is on the screen, keys and buttons do nothing: what is judged is
  // what the reviewer sees.
  async function judge(decision) {
    if (busy || readOnly || !chosen) return;
    busy = true;
    const label = Number(chosen.dataset.label);
    const decided = await decide([{ label, seconds: watch.seconds(), queue: view.dataset.queue, ...decision }]);
    busy = false;
    if (!decided) return;
    stopPicking();
    if (decision.kind === "undo") { watch.restart(); return; }
    judged.push({ label, address: location.pathname + location.search });
    if (view.dataset.next) await go(view.dataset.next);
    else tell("That was the last label of this search.");
  }

  async function correct() {
    const predicate = await askPredicate(chosen.dataset.words);
    if (predicate) judge({ kind: "wrong_predicate", predicate });
  }

  // Takes back the last verdict of this visit and shows its label again, or the verdict on the label that is shown.
  async function undo() {
    const last = judged.at(-1);
    if (chosen.dataset.kind && last?.label !== Number(chosen.dataset.label)) { await judge({ kind: "undo" }); return; }
    if (!last || busy) return;
    busy = true;
    const decided = await decide([{ label: last.label, kind: "undo", queue: view.dataset.queue }]);
    busy = false;
    if (!decided) return;
    judged.pop();
    if (last.label !== Number(chosen.dataset.label)) await go(last.address);
  }

  function pick() {
    view.classList.add("picking");
    view.querySelector("#picking").hidden = false;
    for (const box of view.querySelectorAll("g.box")) {
      box.setAttribute("tabindex", "0");
      box.setAttribute("role", "button");
    }
    choosing("object");
  }

  function choosing(which) {
    end = which;
    view.querySelector("#picking-end").textContent = which;
  }

  function stopPicking() {
    view.classList.remove("picking");
    view.querySelector("#picking").hidden = true;
    for (const box of view.querySelectorAll("g.box")) {
      box.removeAttribute("tabindex");
      box.setAttribute("role", "img");
    }
  }

  function picked(box) {
    if (box.dataset.box === chosen.dataset[end]) { tell(`This is the ${end} already; choose another box, or reject the label.`); return; }
    judge({ kind: "wrong_pair", [end]: Number(box.dataset.box) });
  }

  view.addEventListener("click", (event) => {
    const box = event.target.closest("g.box");
    if (box && view.classList.contains("picking")) picked(box);
    const action = event.target.closest("[data-action]")?.dataset.action;
    if (action === "wrong_pair") pick();
    else if (action === "wrong_predicate") correct();
    else if (action === "undo") undo();
    else if (action) judge({ kind: action });
  });

  async function go(address) {
    if (!address || busy) return;
    busy = true;
    busy = await visit(address, "image");
  }

  function neighbour(step) {
    const item = items[items.indexOf(chosen) + step];
    if (item) go(item.querySelector("a").getAttribute("href"));
  }

  document.addEventListener("keydown", (event) => {
    if (!view.isConnected) { keys.abort(); return; }
    if (isTyping(event) || event.repeat) return;
    // Caps Lock changes no verdict.
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const picking = view.classList.contains("picking");
    if (picking && key === "s") choosing("subject");
    else if (picking && key === "o") choosing("object");
    else if (picking && key === "Escape") stopPicking();
    else if (picking && key === "Enter" && event.target.matches("g.box")) picked(event.target);
    else if (event.target.matches("input[type=range]")) return;
    else if (key === "Escape") location.href = view.dataset.back;
    else if (key === "n") go(view.dataset.next);
    else if (key === "b") go(view.dataset.previous);
    else if (key === "ArrowDown") neighbour(1);
    else if (key === "ArrowUp") neighbour(-1);
    else if (readOnly || !chosen) return;
    else if (key in KINDS) judge({ kind: KINDS[key] });
    else if (key === "p") correct();
    else if (key === "w") pick();
    else if (key === "z") undo();
    else return;
    event.preventDefault();
  }, { signal: keys.signal });

  showChosen();
  if (chosen) chosen.parentElement.scrollTop = chosen.offsetTop - chosen.parentElement.offsetTop - chosen.offsetHeight;
  if (location.hash === "#wrong-pair" && chosen && !readOnly) {
    history.replaceState({}, "", location.pathname + location.search);
    pick();
  }
  if (view.dataset.following) new Image().src = `pictures/${view.dataset.following}.jpg`;
}
