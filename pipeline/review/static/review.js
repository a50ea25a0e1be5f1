// What the page does in the browser: keys, verdicts, links between words and boxes, and the scrolling list.
import { watchGrid } from "./grid.js";
import { watchImage } from "./image.js";
import { nameKeys, watchHelp } from "./dialogs.js";
import { watchScroller } from "./scroller.js";
import { watchHistory } from "./visits.js";

function begin() {
  nameKeys();
  const grid = document.querySelector("[data-view=grid]");
  if (grid && !grid.dataset.begun) watchGrid(grid);
  const image = document.querySelector("[data-view=image]");
  if (image && !image.dataset.begun) watchImage(image);
  const scroller = document.getElementById("scroller");
  if (scroller && !scroller.dataset.begun) watchScroller(scroller);
}

watchHelp();
watchHistory();
begin();
document.addEventListener("visited", begin);
// A search that changes goes to its results, where its form stays open.
document.addEventListener("change", ({ target: { form } }) => { if (form?.id === "search") { form.action += "#search"; form.requestSubmit(); } });
