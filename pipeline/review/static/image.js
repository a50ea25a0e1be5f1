// The image view: one label over its image, linked with its words, its triplet and its edge of the scene graph.
import { askPredicate, isTyping, keyOf, writeNote } from "./dialogs.js";
import { decide, judged, record as send, remember, stopwatch, takeBack, tell } from "./verdicts.js";
import { visit } from "./visits.js";

const KEYS = { a: "accept", r: "reject", u: "unsure", p: "wrong_predicate", w: "wrong_pair", c: "note", z: "undo", m: "add" };
const PICKING = { s: "subject", o: "object", x: "swap", n: "none", Enter: "record", Escape: "stop" };
const ENDS = ["subject", "object"];

export function watchImage(view) {
  view.dataset.begun = "yes";
  const items = [...view.querySelectorAll("#labels > li[data-label]")];
  const chosen = items.find((item) => item.dataset.label === view.dataset.chosen);
  const readOnly = !view.querySelector(".verdict-buttons");
  const watch = stopwatch();
  const keys = new AbortController();
  let busy = false;
  // While a pair is corrected: the end that the next click sets, both ends, and the last click.
  let end = "object";
  let ends = {};
  let adding = false;
  let last = { x: -99, y: -99, turn: 0 };

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

  function showEnds(shown) {
    for (const element of view.querySelectorAll("[data-box]")) {
      for (const one of ENDS) element.classList.toggle(one, element.dataset.box === shown[one]);
    }
  }

  function showChosen() {
    if (view.classList.contains("picking")) return;
    showEnds({ subject: chosen?.dataset.subject, object: chosen?.dataset.object });
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
    const said = await fetch(`${form.dataset.address}?${values}`).then((answer) => answer.json()).catch(() => ({}));
    if (turn !== asked) return;
    if (!said.reasons) { view.querySelector("#try-result").textContent = said.error ?? "This choice can't be tried."; return; }
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
  form?.addEventListener("input", tryChoice);
  form?.addEventListener("submit", (event) => event.preventDefault());

  // Verdicts, on the chosen label or on several. Until the answer is there and the next label is on the screen, keys and
  // buttons do nothing: what is judged is what the reviewer sees.
  async function judge(decision, targets = [chosen]) {
    if (busy || readOnly || !chosen) return;
    busy = true;
    const seconds = watch.seconds() / targets.length;
    const decided = await decide(targets.map(({ dataset: { label, content } }) => (
      { label: Number(label), content, seconds, queue: view.dataset.queue, ...decision }
    )));
    busy = false;
    if (!decided) return;
    stopPicking();
    if (decision.kind === "undo") { watch.restart(); return; }
    remember(decided, { next: view.dataset.next });
    if (view.dataset.next) await go(view.dataset.next);
    else if (view.dataset.at) tell("That was the last label of this search.");
  }

  async function correct() {
    const predicate = await askPredicate(chosen.dataset.words);
    if (predicate) judge({ kind: "wrong_predicate", predicate });
  }

  // Takes back the last verdict of this visit and shows its label again. On a label with an earlier verdict, to which that
  // last one did not lead, takes back the earlier verdict.
  async function undo() {
    const group = judged.at(-1);
    const isShown = group?.verdicts.some(({ label }) => label === Number(chosen.dataset.label));
    const isNext = group?.next && location.href.endsWith(group.next);
    if (chosen.dataset.kind && !isShown && !isNext) { await judge({ kind: "undo", of: chosen.dataset.time }); return; }
    if (!group || busy) return;
    busy = true;
    const decided = await takeBack(group.verdicts, view.dataset.queue);
    busy = false;
    if (!decided) return;
    judged.pop();
    if (!isShown) await go(group.address);
  }

  function pick(isNew) {
    if (!view.querySelector("#picking")) return;
    adding = isNew;
    view.querySelector("[data-action=none]").hidden = adding;
    view.classList.add("picking");
    view.querySelector("#picking").hidden = false;
    for (const box of view.querySelectorAll("g.box")) {
      box.setAttribute("tabindex", "0");
      box.setAttribute("role", "radio");
    }
    light([], [], []);
    const [first, second] = [...view.querySelectorAll("g.box")].map((box) => box.dataset.box);
    ends = chosen ? { subject: chosen.dataset.subject, object: chosen.dataset.object } : { subject: first, object: second };
    choosing(adding ? "subject" : "object");
  }

  function choosing(which) {
    end = which;
    preview();
  }

  // What will be recorded: both boxes and their names, before Enter or the button records it.
  function preview() {
    showEnds(ends);
    for (const box of view.querySelectorAll("g.box")) box.setAttribute("aria-checked", box.dataset.box === ends[end]);
    for (const one of ENDS) {
      const name = view.querySelector(`#picking-${one}`);
      name.textContent = view.querySelector(`g.box[data-box="${ends[one]}"]`).getAttribute("aria-label");
      name.parentElement.classList.toggle("current", one === end);
    }
  }

  function stopPicking() {
    view.classList.remove("picking");
    view.querySelector("#picking").hidden = true;
    for (const box of view.querySelectorAll("g.box")) {
      box.removeAttribute("tabindex");
      box.removeAttribute("aria-checked");
      box.setAttribute("role", "img");
    }
    showChosen();
  }

  function picked(box) {
    tell("");
    ends[end] = box.dataset.box;
    preview();
  }

  // The boxes under a point, the smallest first. Another click on the same point goes on to the next of them.
  function pickedAt(x, y, turn) {
    const boxes = [...new Set(document.elementsFromPoint(x, y).map((element) => element.closest("g.box")).filter(Boolean))];
    if (!boxes.length) return;
    last = { x, y, turn: (turn + boxes.length) % boxes.length };
    picked(boxes[last.turn]);
  }

  function swap() {
    ends = { subject: ends.object, object: ends.subject };
    preview();
  }

  function record() {
    const changed = ENDS.filter((one) => ends[one] !== chosen?.dataset[one]);
    if (ends.subject === ends.object) tell("Subject and object are the same box; choose another one.");
    else if (adding) add();
    else if (!changed.length) tell("This is the label's own pair; choose another box, or reject the label.");
    else judge({ kind: "wrong_pair", boxes: view.dataset.content, ...Object.fromEntries(changed.map((one) => [one, Number(ends[one])])) });
  }

  async function add() {
    const [subject, object] = ENDS.map((one) => view.querySelector(`g.box[data-box="${ends[one]}"]`).getAttribute("aria-label"));
    const predicate = await askPredicate(`${subject} … ${object}`);
    if (!predicate) return;
    relate({ ...ends, predicate, kind: "accept" });
  }

  // Records a relation that no label names, or takes it back.
  async function relate({ subject, object, predicate, kind }) {
    const { image, content } = view.dataset;
    const relation = { image: Number(image), content, subject: Number(subject), object: Number(object), predicate, kind };
    if (await send("relations", relation)) await go(location.pathname + location.search);
  }

  // The caption's relation holds for no pair of this image: every label that says the same is rejected. Who settles a
  // disagreement answers for that label alone, since others may be settled.
  function rejectAll() {
    const isAlone = view.dataset.queue === "adjudication";
    const isAlike = ({ dataset: { words, kind } }) => !isAlone && words === chosen.dataset.words && !kind;
    judge({ kind: "reject" }, items.filter((item) => item === chosen || isAlike(item)));
  }

  view.addEventListener("wheel", (event) => {
    if (!view.classList.contains("picking") || !event.target.closest("g.box")) return;
    event.preventDefault();
    pickedAt(event.clientX, event.clientY, last.turn + Math.sign(event.deltaY));
  }, { passive: false });

  view.addEventListener("click", (event) => {
    if (event.target.closest("g.box") && view.classList.contains("picking")) {
      const again = Math.hypot(event.clientX - last.x, event.clientY - last.y) < 5;
      pickedAt(event.clientX, event.clientY, again ? last.turn + 1 : 0);
      return;
    }
    const button = event.target.closest("[data-action]");
    if (button?.dataset.action === "remove") relate({ ...button.dataset, kind: "undo" });
    else if (button) act(button.dataset.action);
  });

  function act(action) {
    if (action === "add") pick(true);
    else if (action === "swap") swap();
    else if (action === "record") record();
    else if (action === "stop") stopPicking();
    else if (ENDS.includes(action)) choosing(action);
    else if (readOnly || !chosen) return;
    else if (action === "wrong_pair") pick(false);
    else if (action === "none") rejectAll();
    else if (action === "wrong_predicate") correct();
    else if (action === "note") writeNote(chosen);
    else if (action === "undo") undo();
    else judge({ kind: action });
  }

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
    const key = keyOf(event);
    const picking = view.classList.contains("picking");
    if (picking && event.target.matches("button") && (key === "Enter" || key === " ")) return;
    if (picking && key === " " && event.target.matches("g.box")) picked(event.target);
    else if (picking && key in PICKING && !(adding && key === "n")) act(PICKING[key]);
    else if (event.target.matches("input[type=range]")) return;
    else if (key === "Escape") location.href = view.dataset.back;
    else if (key === "n") go(view.dataset.next);
    else if (key === "b") go(view.dataset.previous);
    else if (key === "ArrowDown") neighbour(1);
    else if (key === "ArrowUp") neighbour(-1);
    else if (key in KEYS) act(KEYS[key]);
    else return;
    event.preventDefault();
  }, { signal: keys.signal });

  showChosen();
  if (chosen) chosen.parentElement.scrollTop = chosen.offsetTop - chosen.parentElement.offsetTop - chosen.offsetHeight;
  if (location.hash === "#wrong-pair" && chosen && !readOnly) {
    history.replaceState({}, "", location.pathname + location.search);
    pick(false);
  }
  if (view.dataset.following) new Image().src = view.dataset.following;
}
