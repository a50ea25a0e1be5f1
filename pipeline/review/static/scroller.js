// A list of any length: only the rows in sight are in the page. Browsers bound an element's height, so beyond that the
// scroll bar moves through the list by proportion.
import { bring } from "./visits.js";

const MOST_HEIGHT = 8_000_000;
const STRETCH = 60;

export function watchScroller(scroller) {
  scroller.dataset.begun = "yes";
  const total = Number(scroller.dataset.total);
  const spacer = scroller.querySelector(".spacer");
  const pane = scroller.querySelector(".window");
  const rowHeight = matchMedia("(max-width: 1000px)").matches ? 96 : 76;
  const height = Math.min(total * rowHeight, MOST_HEIGHT);
  spacer.style.height = `${height}px`;
  let shown = -1;
  let timer = 0;

  // How many rows lie above the upper edge, with the fraction of the row that it cuts.
  function above() {
    const room = Math.max(1, height - scroller.clientHeight);
    return (scroller.scrollTop / room) * Math.max(0, total - scroller.clientHeight / rowHeight);
  }

  const first = () => Math.floor(above());

  async function show() {
    const top = Math.max(0, first() - 10);
    if (Math.abs(top - shown) < 8 && shown >= 0) { place(); return; }
    const rows = await bring(`${scroller.dataset.rows}&start=${top}&size=${STRETCH}`);
    if (!rows) return;
    if (Math.abs(Math.max(0, first() - 10) - top) > 20) { schedule(); return; }
    const focused = pane.contains(document.activeElement) ? document.activeElement.dataset.place : null;
    pane.innerHTML = rows.text;
    shown = top;
    place();
    if (focused !== null) pane.querySelector(`[data-place="${focused}"]`)?.focus({ preventScroll: true });
  }

  function place() {
    const offset = scroller.scrollTop - (above() - shown) * rowHeight;
    pane.style.transform = `translateY(${Math.max(0, offset)}px)`;
  }

  function schedule() {
    clearTimeout(timer);
    timer = setTimeout(show, 40);
  }

  scroller.addEventListener("scroll", () => { if (shown >= 0) place(); schedule(); });
  scroller.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const rows = [...pane.querySelectorAll("a")];
    const at = rows.indexOf(document.activeElement);
    if (at < 0) { rows[first() - shown]?.focus(); event.preventDefault(); return; }
    rows[at + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    event.preventDefault();
  });
  show();
}
