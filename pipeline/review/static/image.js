// The image view: one label over its picture, linked with its words, its triplet and its edge of the scene graph.
import { askPredicate, isTyping } from "./dialogs.js";
import { decide, stopwatch, tell } from "./verdicts.js";

const KINDS = { a: "accept", r: "reject", u: "unsure" };
const judged = [];

export function watchImage(view) {
  view.dataset.begun = "yes";
  const items = [...view.querySelectorAll("#labels > li[data-label]")];
  const chosen = items.find((item) => item.dataset.label === view.dataset.chosen);
  const readOnly = !view.querySelector(".verdict-buttons");
  const watch = stopwatch();
  const keys = new AbortController();
  let waiting = false;
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

  // Verdicts.
  async function judge(decision) {
    if (waiting || readOnly || !chosen) return;
    waiting = true;
    const label = Number(chosen.dataset.label);
    const decided = await decide([{ label, seconds: watch.seconds(), queue: view.dataset.queue, ...decision }]);
    waiting = false;
    if (!decided) return;
    stopPicking();
    if (decision.kind === "undo") { watch.restart(); return; }
    judged.push(location.pathname + location.search);
    if (view.dataset.next) go(view.dataset.next);
    else tell("That was the last label of this search.");
  }

  async function correct() {
    const predicate = await askPredicate(chosen.dataset.words);
    if (predicate) judge({ kind: "wrong_predicate", predicate });
  }

  function undo() {
    if (chosen.dataset.kind) { judge({ kind: "undo" }); return; }
    const last = judged.pop();
    if (last) go(last);
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

  function go(address) {
    if (!address) return;
    keys.abort();
    htmx.ajax("GET", address, { target: "#image", select: "#image", swap: "outerHTML" }).then(() => {
      history.pushState({}, "", address);
    });
  }

  function neighbour(step) {
    const item = items[items.indexOf(chosen) + step];
    if (item) go(item.querySelector("a").getAttribute("href"));
  }

  document.addEventListener("keydown", (event) => {
    if (!view.isConnected) { keys.abort(); return; }
    if (isTyping(event)) return;
    const picking = view.classList.contains("picking");
    if (picking && event.key === "s") choosing("subject");
    else if (picking && event.key === "o") choosing("object");
    else if (picking && event.key === "Escape") stopPicking();
    else if (picking && event.key === "Enter" && event.target.matches("g.box")) picked(event.target);
    else if (event.target.matches("input[type=range]")) return;
    else if (event.key === "Escape") location.href = view.dataset.back;
    else if (event.key === "n") go(view.dataset.next);
    else if (event.key === "b") go(view.dataset.previous);
    else if (event.key === "ArrowDown") neighbour(1);
    else if (event.key === "ArrowUp") neighbour(-1);
    else if (readOnly || !chosen) return;
    else if (event.key in KINDS) judge({ kind: KINDS[event.key] });
    else if (event.key === "p") correct();
    else if (event.key === "w") pick();
    else if (event.key === "z") undo();
    else return;
    event.preventDefault();
  }, { signal: keys.signal });

  showChosen();
  if (location.hash === "#wrong-pair" && chosen && !readOnly) {
    history.replaceState({}, "", location.pathname + location.search);
    pick();
  }
  if (view.dataset.following) new Image().src = `/pictures/${view.dataset.following}.jpg`;
}
